"""What thresholds and the counting of activations cost an evaluation, sparse against dense in pairs.

    python benchmarks/evaluate_overhead.py

Two kinds of lm-eval requests, scored texts and greedy generation, on the ReLU demo model and on a random model
of the paper's 0.1B shape (with a small vocabulary: the head would only hide the cost). Each pair is one dense
and one sparse run of the same requests, one right after the other, the order alternating. Time is measured on
the clock and as processor time of the one thread, which other work on the machine disturbs less.
"""

from __future__ import annotations

import importlib.metadata
import statistics
import sys
import time
from typing import Any

import torch
from _common import save

from sparsing.demo import checkpoints, heldout_text
from sparsing.evaluation.model.harness import sparsing_lm
from sparsing.evaluation.model.launching import hush
from sparsing.measuring.subject import Subject
from sparsing.models.loading import LoadedModel, load_model
from sparsing.rules import make_rule
from sparsing.rules.thresholds import Thresholds
from sparsing.text.corpus import load_corpus

PAIRS = 15
BATCH = 8
LIMIT = 1.2
SHAPE = {"hidden_size": 768, "intermediate_size": 1920, "num_hidden_layers": 16, "num_attention_heads": 6}


def main() -> int:
    hush(show=False)
    torch.set_num_threads(1)
    demo = load_model(checkpoints("relu")[-1], dtype="float32", device="cpu")
    results = [_measure("demo-relu", demo, count=32), _measure("random 0.1B shape", _random(demo), count=4)]
    settings = {"limit": LIMIT, "batch_size": BATCH, "lm_eval": importlib.metadata.version("lm_eval")}
    save("evaluate_overhead", {**settings, "models": results})
    for one in results:
        for kind, found in one["kinds"].items():
            print(_line(one["model"], kind, found))
    worst = max(kind["cpu_sparse_over_dense"] for one in results for kind in one["kinds"].values())
    print(f"worst median, processor time: {worst:.3f} times dense, limit {LIMIT}")
    return int(worst > LIMIT)


def _line(model: str, kind: str, found: dict[str, Any]) -> str:
    """Sparse over dense as the median of pairs with quartiles, and how much was active."""
    said = [f"{model}, {kind}: {100 * found['activation_ratio']:.1f}% active"]
    for name, title in (("cpu", "processor"), ("wall", "clock")):
        low, high = found[f"{name}_quartiles"]
        times = f"{found[f'{name}_dense_sec']:.2f} s dense, {found[f'{name}_sparse_sec']:.2f} s sparse"
        said.append(f"{title} {found[f'{name}_sparse_over_dense']:.3f} ({low:.3f}-{high:.3f}), {times}")
    return "; ".join(said)


def _random(demo: LoadedModel) -> LoadedModel:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(demo.tokenizer), max_position_embeddings=512, hidden_act="relu", **SHAPE
    )
    return LoadedModel.of(LlamaForCausalLM(config), demo.tokenizer, name="random")


def _measure(name: str, loaded: LoadedModel, count: int) -> dict[str, Any]:
    thresholds = _thresholds(loaded)
    lm = sparsing_lm()(loaded, batch_size=BATCH, show_progress=False)
    kinds = {}
    for kind, run in (("score", _score), ("generate", _generate)):
        run(lm, count, thresholds)  # warm up
        run(lm, count, None)
        dense, sparse, activities = [], [], None
        for pair in range(PAIRS):
            for level in (None, thresholds) if pair % 2 else (thresholds, None):
                seconds, seen = run(lm, count, level)
                (dense if level is None else sparse).append(seconds)
                activities = seen or activities
        assert activities is not None
        kinds[kind] = {
            **_compared(dense, sparse, 0, "wall"),
            **_compared(dense, sparse, 1, "cpu"),
            "tokens": {p: one.num_tokens for p, one in zip(("prefill", "decode"), activities, strict=True)},
            "activation_ratio": activities[kind == "generate"].activation_ratio,
        }
    return {"model": name, "parameters": loaded.num_parameters, "pairs": PAIRS, "kinds": kinds}


def _compared(dense: list, sparse: list, column: int, name: str) -> dict[str, Any]:
    """Medians of both, and of the ratios of pairs with their quartiles."""
    pairs = [(d[column], s[column]) for d, s in zip(dense, sparse, strict=True)]
    ratios = sorted(s / d for d, s in pairs)
    return {
        f"{name}_sparse_over_dense": statistics.median(ratios),
        f"{name}_quartiles": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
        f"{name}_dense_sec": statistics.median(d for d, _ in pairs),
        f"{name}_sparse_sec": statistics.median(s for _, s in pairs),
    }


def _thresholds(loaded: LoadedModel) -> Thresholds:
    corpus = load_corpus([heldout_text()], loaded.tokenizer, window=256, max_tokens=2048)
    return Subject(loaded, corpus, scores=["neuron_norm"]).thresholds(make_rule("cett"), 0.2)


def _texts(lm: Any, count: int, tokens: int) -> list[str]:
    ids = lm.tokenizer(heldout_text()[:400_000], verbose=False)["input_ids"]
    return [lm.tokenizer.decode(ids[i * tokens : (i + 1) * tokens]) for i in range(count)]


def _score(lm: Any, count: int, level: Thresholds | None) -> tuple[tuple[float, float], Any]:
    """Texts of about 200 tokens with a continuation of about 20."""
    from lm_eval.api.instance import Instance

    texts = _texts(lm, count, 220)
    requests = [Instance("loglikelihood", {}, (text[:-60], text[-60:]), i) for i, text in enumerate(texts)]
    return _timed(lm, lambda: lm.loglikelihood(requests), level)


def _generate(lm: Any, count: int, level: Thresholds | None) -> tuple[tuple[float, float], Any]:
    """Prompts of about 100 tokens and 32 new ones."""
    from lm_eval.api.instance import Instance

    settings = {"until": ["no such text"], "max_gen_toks": 32, "do_sample": False}
    texts = _texts(lm, count, 100)
    requests = [Instance("generate_until", {}, (text, settings), i) for i, text in enumerate(texts)]
    return _timed(lm, lambda: lm.generate_until(requests), level)


def _timed(lm: Any, run: Any, level: Thresholds | None) -> tuple[tuple[float, float], Any]:
    lm.apply(level)
    begin = time.perf_counter(), time.process_time()
    run()
    seen = lm.activities()
    seconds = time.perf_counter() - begin[0], time.process_time() - begin[1]
    lm.apply(None)
    return seconds, seen


if __name__ == "__main__":
    sys.exit(main())
