"""Measures what observing routed experts costs: passes of a measurement over the eager pass of the same model.

    OMP_NUM_THREADS=1 python benchmarks/expert_passes.py

The models are small mixtures of experts with random weights: Qwen3-MoE (gated experts), gpt-oss (biases, and an
activation that clamps) and DeepSeek-V3 (a shared expert). `eager` is a pass that computes the loss with transformers'
implementation `eager` and without taps. Each round times all passes between two eager passes, by the processor time of
one thread; every other round runs in reverse order. The medians of the ratios are reported.

- `tapped`: the rows are handed over, and nothing is computed from them
- `masked`: thresholds are applied, as by `sparsify`
- `sparse`: a sparse pass of a measurement, which also counts neurons and measures CETT
- `grouped`: as `eager`, with the implementation `grouped_mm`
- `grouped sparse`: `sparse` with that implementation
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _common import save

from sparsing.demo import checkpoints
from sparsing.measuring.observers import SparseObserver
from sparsing.measuring.passes import LossOnly, Observer, Totals, run_pass
from sparsing.models.loading import LoadedModel
from sparsing.rules.mask import Mask
from sparsing.rules.thresholds import Thresholds
from sparsing.sites.tap import Rows, tapped
from sparsing.text.corpus import Corpus

LIMIT = 1.5
"""Largest allowed ratio of `sparse` to `eager`."""
SHAPE = {
    **{"vocab_size": 4096, "hidden_size": 512, "num_hidden_layers": 3, "num_attention_heads": 8},
    **{"num_key_value_heads": 4, "head_dim": 64, "intermediate_size": 512, "moe_intermediate_size": 512},
    **{"num_experts": 16, "num_local_experts": 16, "n_routed_experts": 16, "num_experts_per_tok": 4},
}
TYPES: dict[str, dict[str, Any]] = {
    "qwen3_moe": {},
    "gpt_oss": {"sliding_window": 128},
    "deepseek_v3": {
        **{"n_shared_experts": 1, "first_k_dense_replace": 0, "n_group": 1, "topk_group": 1},
        **{"num_key_value_heads": 8, "q_lora_rank": 128, "kv_lora_rank": 128},
        **{"head_dim": 32, "qk_rope_head_dim": 32, "qk_nope_head_dim": 32, "v_head_dim": 64},
    },
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens of a pass (default: %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = {name: _row(name, args.rounds, args.tokens) for name in TYPES}
    save("expert_passes", {"shape": SHAPE, "tokens": args.tokens, "limit": LIMIT, "rows": rows})
    worst = max(row["ratios"]["sparse"] for row in rows.values())
    print(f"largest ratio of a sparse pass to eager {worst:.2f}, limit {LIMIT}")
    return int(worst > LIMIT)


class _Tapped(Observer[Totals]):
    """Receives the rows and does nothing with them."""

    def __init__(self) -> None:
        super().__init__(Totals())


def _row(model_type: str, rounds: int, tokens: int) -> dict[str, Any]:
    """Median ratio of each pass to the eager one, all ratios, and the seconds of the eager pass."""
    passes = _passes(_loaded(model_type), tokens)
    for run in passes.values():
        run()
    ratios: dict[str, list[float]] = {name: [] for name in passes if name != "eager"}
    eager: list[float] = []
    for number in range(rounds):
        order = list(ratios) if number % 2 == 0 else list(reversed(ratios))
        before, *seconds, after = (_time(passes[name]) for name in ("eager", *order, "eager"))
        eager += [before, after]
        for name, each in zip(order, seconds, strict=True):
            ratios[name].append(2 * each / (before + after))
    medians = {name: round(statistics.median(found), 3) for name, found in ratios.items()}
    print(model_type, medians, flush=True)
    return {"eager_sec": statistics.median(eager), "ratios": medians, "all_ratios": ratios}


def _loaded(model_type: str) -> LoadedModel:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **(SHAPE | TYPES[model_type]))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return LoadedModel.of(model, AutoTokenizer.from_pretrained(checkpoints("relu")[-1]))


def _half(loaded: LoadedModel, corpus: Corpus) -> Thresholds:
    """Thresholds that about half of the neurons of each site exceed."""
    values: dict[str, float] = {}

    def see(index: int, rows: Rows) -> None:
        site = loaded.sites[index]
        weight = 1.0 if rows.routing is None else float(rows.routing.weight.mean())
        values[site.name] = float(rows.h.abs().median()) * float(site.column_norms().mean()) * weight

    with torch.inference_mode(), tapped(loaded.sites, see, gate=False):
        loaded.model(next(corpus.batches(1)).ids, use_cache=False)
    ordered = {site.name: values[site.name] for site in loaded.sites}  # a shared expert may run first
    return Thresholds(rule="cett", level=0.1, on="neuron_norm", values=ordered)


def _passes(loaded: LoadedModel, tokens: int) -> dict[str, Callable[[], object]]:
    """Every pass over windows of 256 tokens, by name."""
    width, count = 256, max(1, tokens // 256)
    corpus = Corpus(
        ids=np.random.default_rng(0).integers(3, SHAPE["vocab_size"], count * width).astype(np.int32),
        starts=np.arange(count) * width,
        lengths=np.full(count, width),
        fresh=np.zeros(count, dtype=np.int64),
    )
    mask = Mask(loaded.sites, _half(loaded, corpus))

    def run(make: Callable[[], Observer[Any]], intervention: Mask | None, implementation: str) -> object:
        loaded.model.set_experts_implementation(implementation)
        return run_pass(loaded, corpus, make(), intervention, key="benchmark")

    def sparse() -> SparseObserver:
        return SparseObserver(loaded.sites, corpus)

    return {
        "eager": lambda: run(LossOnly, None, "eager"),
        "tapped": lambda: run(_Tapped, None, "eager"),
        "masked": lambda: run(LossOnly, mask, "eager"),
        "sparse": lambda: run(sparse, mask, "eager"),
        "grouped": lambda: run(LossOnly, None, "grouped_mm"),
        "grouped sparse": lambda: run(sparse, mask, "grouped_mm"),
    }


def _time(run: Callable[[], object]) -> float:
    begin = time.process_time()
    run()
    return time.process_time() - begin


if __name__ == "__main__":
    sys.exit(main())
