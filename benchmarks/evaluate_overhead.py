"""What thresholds and the counting of activations cost an evaluation, sparse against dense in pairs.

    python benchmarks/evaluate_overhead.py

Two kinds of lm-eval requests, scored texts and greedy generation, on the ReLU demo model and on a random model
of the paper's 0.1B shape (with a small vocabulary: the head would only hide the cost). Each pair is one dense
and one sparse run of the same requests, one right after the other, the order alternating.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import torch
from _common import save

from sparsing.corpus import load_corpus
from sparsing.demo import checkpoints, heldout_text
from sparsing.evaluation.harness import sparsing_lm
from sparsing.evaluation.launching import hush
from sparsing.models import LoadedModel, load_model
from sparsing.rules import make_rule
from sparsing.subject import Subject
from sparsing.thresholds import Thresholds

PAIRS = 9
BATCH = 8
LIMIT = 1.2
SHAPE = {"hidden_size": 768, "intermediate_size": 1920, "num_hidden_layers": 16, "num_attention_heads": 6}


def main() -> int:
    hush(show=False)
    torch.set_num_threads(1)
    demo = load_model(checkpoints("relu")[-1], dtype="float32", device="cpu")
    results = [_measure("demo-relu", demo, scale=4), _measure("random 0.1B shape", _random(demo), scale=1)]
    save("evaluate_overhead", {"limit": LIMIT, "batch_size": BATCH, "models": results})
    worst = max(kind["sparse_over_dense"] for one in results for kind in one["kinds"].values())
    print(f"worst median: {worst:.3f} times dense, limit {LIMIT}")
    return int(worst > LIMIT)


def _random(demo: LoadedModel) -> LoadedModel:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(demo.tokenizer), max_position_embeddings=512, hidden_act="relu", **SHAPE
    )
    return LoadedModel.of(LlamaForCausalLM(config), demo.tokenizer, name="random")


def _measure(name: str, loaded: LoadedModel, scale: int) -> dict[str, Any]:
    thresholds = _thresholds(loaded)
    lm = sparsing_lm()(loaded, batch_size=BATCH, show_progress=False)
    kinds = {}
    for kind, run in (("score", _score), ("generate", _generate)):
        run(lm, scale, thresholds)  # warm up
        run(lm, scale, None)
        dense, sparse, activities = [], [], None
        for pair in range(PAIRS):
            for level in (None, thresholds) if pair % 2 else (thresholds, None):
                seconds, seen = run(lm, scale, level)
                (dense if level is None else sparse).append(seconds)
                activities = seen or activities
        ratios = [s / d for s, d in zip(sparse, dense, strict=True)]
        assert activities is not None
        kinds[kind] = {
            "sparse_over_dense": statistics.median(ratios),
            "spread": [min(ratios), max(ratios)],
            "dense_sec": statistics.median(dense),
            "sparse_sec": statistics.median(sparse),
            "tokens": {p: one.num_tokens for p, one in zip(("prefill", "decode"), activities, strict=True)},
            "activation_ratio": activities[kind == "generate"].activation_ratio,
        }
    return {"model": name, "parameters": loaded.num_parameters, "pairs": PAIRS, "kinds": kinds}


def _thresholds(loaded: LoadedModel) -> Thresholds:
    corpus = load_corpus([heldout_text()], loaded.tokenizer, window=256, max_tokens=2048)
    return Subject(loaded, corpus, scores=["neuron_norm"]).thresholds(make_rule("cett"), 0.2)


def _texts(lm: Any, count: int, tokens: int) -> list[str]:
    ids = lm.tokenizer(heldout_text()[:400_000], verbose=False)["input_ids"]
    return [lm.tokenizer.decode(ids[i * tokens : (i + 1) * tokens]) for i in range(count)]


def _score(lm: Any, scale: int, level: Thresholds | None) -> tuple[float, Any]:
    """Texts of about 200 tokens with a continuation of about 20."""
    from lm_eval.api.instance import Instance

    texts = _texts(lm, BATCH * scale, 220)
    requests = [Instance("loglikelihood", {}, (text[:-60], text[-60:]), i) for i, text in enumerate(texts)]
    return _timed(lm, lambda: lm.loglikelihood(requests), level)


def _generate(lm: Any, scale: int, level: Thresholds | None) -> tuple[float, Any]:
    """Prompts of about 100 tokens and 32 new ones."""
    from lm_eval.api.instance import Instance

    settings = {"until": ["no such text"], "max_gen_toks": 32, "do_sample": False}
    texts = _texts(lm, BATCH * scale, 100)
    requests = [Instance("generate_until", {}, (text, settings), i) for i, text in enumerate(texts)]
    return _timed(lm, lambda: lm.generate_until(requests), level)


def _timed(lm: Any, run: Any, level: Thresholds | None) -> tuple[float, Any]:
    lm.apply(level)
    begin = time.perf_counter()
    run()
    seen = lm.activities()
    seconds = time.perf_counter() - begin
    lm.apply(None)
    return seconds, seen


if __name__ == "__main__":
    sys.exit(main())
