"""Measures the overhead of thresholds and of counting activations in an evaluation, sparse against dense.

    python benchmarks/evaluate_overhead.py

Two kinds of lm-eval requests are timed, scored texts and greedy generation. They run on the ReLU demo model and on a
random model of the paper's 0.1B shape. That model has a small vocabulary, since the time of a large head would hide the
overhead. A pair is one dense and one sparse run of the same requests in direct succession, in alternating order.
Both wall time and processor time are measured; other work on the machine disturbs processor time less.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import statistics
import sys
import time
from typing import Any, NamedTuple

import torch
from _common import save

from sparsing.demo import checkpoints, heldout_text
from sparsing.evaluation.model.harness import make_sparsing_lm
from sparsing.evaluation.model.launching import set_progress_bars
from sparsing.measuring.subject import Subject
from sparsing.models.loading import LoadedModel, load_model
from sparsing.rules import make_rule
from sparsing.rules.thresholds import Thresholds
from sparsing.text.corpus import load_corpus

PAIRS = 15
BATCH = 8
LIMIT = 1.2
"""The largest allowed median of sparse over dense processor time; the script fails above it."""
SHAPE: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 1920,
    "num_hidden_layers": 16,
    "num_attention_heads": 6,
}


class Seconds(NamedTuple):
    """Duration of one run."""

    wall: float
    cpu: float


def main() -> int:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    set_progress_bars(wanted=False)
    torch.set_num_threads(1)
    demo = load_model(checkpoints("relu")[-1], dtype="float32", device="cpu")
    results = [_measure("demo-relu", demo, count=32), _measure("random 0.1B shape", _random(demo), count=4)]
    settings = {"limit": LIMIT, "batch_size": BATCH, "lm_eval": importlib.metadata.version("lm_eval")}
    save("evaluate_overhead", {**settings, "models": results})
    for result in results:
        for kind, times in result["kinds"].items():
            print(_line(result["model"], kind, times))
    worst = max(times["cpu_sparse_over_dense"] for result in results for times in result["kinds"].values())
    print(f"worst median, processor time: {worst:.3f} times dense, limit {LIMIT}")
    return int(worst > LIMIT)


def _line(model: str, kind: str, times: dict[str, Any]) -> str:
    """A line of text: the activation ratio, and sparse over dense as the median of pairs with its quartiles."""
    parts = [f"{model}, {kind}: {100 * times['activation_ratio']:.1f}% active"]
    for name, title in (("cpu", "processor"), ("wall", "clock")):
        low, high = times[f"{name}_quartiles"]
        seconds = f"{times[f'{name}_dense_sec']:.2f} s dense, {times[f'{name}_sparse_sec']:.2f} s sparse"
        parts.append(f"{title} {times[f'{name}_sparse_over_dense']:.3f} ({low:.3f}-{high:.3f}), {seconds}")
    return "; ".join(parts)


def _random(demo: LoadedModel) -> LoadedModel:
    """A random ReLU Llama of the shape `SHAPE` with the tokenizer of the demo model."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(demo.tokenizer), max_position_embeddings=512, hidden_act="relu", **SHAPE
    )
    return LoadedModel.of(LlamaForCausalLM(config), demo.tokenizer, name="random")


def _measure(name: str, loaded: LoadedModel, count: int) -> dict[str, Any]:
    """Time all pairs of one model with `count` requests of each kind."""
    thresholds = _thresholds(loaded)
    lm = make_sparsing_lm()(loaded, batch_size=BATCH, show_progress=False)
    kinds = {}
    for kind, run in (("score", _score), ("generate", _generate)):
        run(lm, count, thresholds)  # warms up
        run(lm, count, None)
        dense: list[Seconds] = []
        sparse: list[Seconds] = []
        activities = None
        for pair in range(PAIRS):
            for level in (None, thresholds) if pair % 2 else (thresholds, None):
                seconds, counted = run(lm, count, level)
                (dense if level is None else sparse).append(seconds)
                activities = counted or activities
        assert activities is not None
        kinds[kind] = {
            **_compare_pairs(dense, sparse, "wall"),
            **_compare_pairs(dense, sparse, "cpu"),
            "tokens": {
                phase: activity.num_tokens
                for phase, activity in zip(("prefill", "decode"), activities, strict=True)
            },
            "activation_ratio": activities[kind == "generate"].activation_ratio,
        }
    return {"model": name, "parameters": loaded.num_parameters, "pairs": PAIRS, "kinds": kinds}


def _compare_pairs(dense: list[Seconds], sparse: list[Seconds], name: str) -> dict[str, Any]:
    """Median seconds of both, and median and quartiles of sparse over dense; `name` is `wall` or `cpu`."""
    pairs = [(getattr(d, name), getattr(s, name)) for d, s in zip(dense, sparse, strict=True)]
    ratios = sorted(s / d for d, s in pairs)
    return {
        f"{name}_sparse_over_dense": statistics.median(ratios),
        f"{name}_quartiles": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
        f"{name}_dense_sec": statistics.median(d for d, _ in pairs),
        f"{name}_sparse_sec": statistics.median(s for _, s in pairs),
    }


def _thresholds(loaded: LoadedModel) -> Thresholds:
    """Thresholds at a CETT of 0.2 on held-out text."""
    corpus = load_corpus([heldout_text()], loaded.tokenizer, window=256, max_tokens=2048)
    return Subject(loaded, corpus, scores=["neuron_norm"]).thresholds(make_rule("cett"), 0.2)


def _texts(lm: Any, count: int, tokens: int) -> list[str]:
    """`count` texts of about `tokens` tokens each."""
    ids = lm.tokenizer(heldout_text()[:400_000], verbose=False)["input_ids"]
    return [lm.tokenizer.decode(ids[i * tokens : (i + 1) * tokens]) for i in range(count)]


def _score(lm: Any, count: int, level: Thresholds | None) -> tuple[Seconds, Any]:
    """Score texts of about 200 tokens with a continuation of about 20 tokens."""
    from lm_eval.api.instance import Instance

    texts = _texts(lm, count, 220)
    requests = [Instance("loglikelihood", {}, (text[:-60], text[-60:]), i) for i, text in enumerate(texts)]
    return _timed(lm, lambda: lm.loglikelihood(requests), level)


def _generate(lm: Any, count: int, level: Thresholds | None) -> tuple[Seconds, Any]:
    """Generate 32 tokens after prompts of about 100 tokens."""
    from lm_eval.api.instance import Instance

    settings = {"until": ["no such text"], "max_gen_toks": 32, "do_sample": False}
    texts = _texts(lm, count, 100)
    requests = [Instance("generate_until", {}, (text, settings), i) for i, text in enumerate(texts)]
    return _timed(lm, lambda: lm.generate_until(requests), level)


def _timed(lm: Any, run: Any, level: Thresholds | None) -> tuple[Seconds, Any]:
    """Run under the thresholds `level` (None for dense); returns the times and the counted activities."""
    lm.apply(level)
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    activities = lm.activities()  # within the timed part, since it finishes the counting
    seconds = Seconds(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu)
    lm.apply(None)
    return seconds, activities


if __name__ == "__main__":
    sys.exit(main())
