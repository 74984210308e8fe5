"""Measures the cost of finding PPL-1%, and PPL-1/5/10% together, in dense forward passes over the same corpus.

    python benchmarks/search_cost.py                                 the demo models and a model of 10.6M parameters
    python benchmarks/search_cost.py --model PATH --text FILE --dtype bfloat16 --tokens 20480 --window 1024

The time is that of the whole `measure_all(...)`: calibration, search, verification on dense and on sparse inputs, and
the held-out check. One dense equivalent is the mean of a dense pass before and one after. Each row is saved when it is
complete, and rows of the same day stay, so an interrupted run continues with `--skip-finished`.

For the model of 10.6M parameters the cost is compared with the algorithm of the reference (METRICS in the paper's
code), which is reimplemented below. It takes 20 bisection steps on CETT. Each step runs a dense pass that keeps all
activations, a bisection of 16 steps over a grid of 65,536 thresholds per layer (one `down_proj` each), and a sparse
pass. Since its steps cost the same, the reference is timed on some of the steps and on a part of the tokens, and its
time is scaled. The row states the factor.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import ROOT, save, text_file, trained_model

from sparsing.demo import DEMO_ACTIVATIONS, checkpoints, heldout_text
from sparsing.measuring._measure import Request, measure_all
from sparsing.measuring.passes import LossOnly, run_pass
from sparsing.measuring.subject import Subject
from sparsing.models.loading import LoadedModel, load_model
from sparsing.sites.tap import tapped
from sparsing.text.corpus import Batch, Corpus, load_corpus, split_holdout

TARGETS = ((1,), (1, 5, 10))
"""Targets in percent of perplexity that are searched together."""
TRAINED = "10.6M"
REFERENCE_STEPS = 2
REFERENCE_WINDOWS = 8


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="folder of a model (default: the demo models and a trained model)")
    parser.add_argument("--text", help="text file (default: text of the standard library)")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--tokens", type=int, default=112_000, help="before the held-out tenth is split off")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--skip-finished", action="store_true", help="keep the rows of today's file")
    args = parser.parse_args()
    path = ROOT / "results" / f"search_cost-{datetime.date.today().isoformat()}.json"
    rows: dict[str, Any] = json.loads(path.read_text()).get("rows", {}) if path.exists() else {}
    for name in [args.model] if args.model else [*DEMO_ACTIVATIONS, TRAINED]:
        for targets in TARGETS:
            key = f"{Path(name).name} {args.dtype} PPL-{'/'.join(map(str, targets))}%"
            if args.skip_finished and key in rows:
                continue
            loaded = load_model(_folder(name), dtype=args.dtype, device="cpu")
            source = args.text or ([heldout_text()] if name in DEMO_ACTIVATIONS else str(text_file(500_000)))
            corpus = load_corpus(source, loaded.tokenizer, window=args.window, max_tokens=args.tokens)
            row = _row(loaded, corpus, targets)
            if name == TRAINED and targets == (1,):
                row |= _against_reference(loaded, split_holdout(corpus, 0.1)[0], row)
            rows[key] = row
            save("search_cost", {"rows": rows})


def _folder(name: str) -> str | Path:
    if name == TRAINED:
        return trained_model()
    return checkpoints(name)[-1] if name in DEMO_ACTIVATIONS else name


def _row(loaded: LoadedModel, corpus: Corpus, targets: tuple[int, ...]) -> dict[str, Any]:
    corpus, heldout = split_holdout(corpus, 0.1)
    _dense(loaded, corpus.part(np.arange(1)))  # the first pass pays for allocations
    before = _dense(loaded, corpus)
    began = time.perf_counter()
    subject = Subject(loaded, corpus, scores=["neuron_norm"], heldout=heldout)
    calibration_sec = time.perf_counter() - began
    results = measure_all(subject, [Request(rule="cett", ppl_ratio=1 + p / 100) for p in targets])
    ours_sec = time.perf_counter() - began
    after = _dense(loaded, corpus)
    dense_sec = (before + after) / 2
    tries = [one for result in results for one in result.tries]
    return {
        "parameters": loaded.num_parameters,
        "dtype": loaded.dtype,
        "num_tokens": corpus.num_tokens,
        "heldout_tokens": heldout.num_tokens if heldout else 0,
        "dense_pass_sec": [before, after],
        "dense_tok_per_sec": corpus.num_tokens / dense_sec,
        "ours_sec": ours_sec,
        "dense_equivalents": ours_sec / dense_sec,
        "calibration_dense_equivalents": calibration_sec / dense_sec,
        "full_passes": sum(one.on_all for one in tries),
        "part_passes": sum(not one.on_all for one in tries),
        "levels": [
            {
                "ppl_percent": target,
                "cett": result.level,
                "ppl_ratio": result.ppl_ratio,
                "ppl_ratio_noise": result.ppl_ratio_noise,
                "activation_ratio": result.activation_ratio,
                "activation_ratio_interval": result.activation_ratio_interval,
                "heldout_ppl_ratio": result.heldout.ppl_ratio if result.heldout else None,
                "tries": [one.to_dict() for one in result.tries],
            }
            for target, result in zip(targets, results, strict=True)
        ],
    }


def _against_reference(loaded: LoadedModel, corpus: Corpus, row: dict[str, Any]) -> dict[str, Any]:
    part = corpus.part(np.arange(REFERENCE_WINDOWS))
    part_sec = _reference(loaded, part, REFERENCE_STEPS)
    scale = corpus.num_tokens / part.num_tokens * 20 / REFERENCE_STEPS
    dense_sec = sum(row["dense_pass_sec"]) / 2
    return {
        "reference_timed_sec": part_sec,
        "reference_timed_on": f"{part.num_tokens} tokens, {REFERENCE_STEPS} of 20 steps; scaled by {scale:.1f}",
        "reference_dense_equivalents": part_sec * scale / dense_sec,
        "times_faster_than_reference": part_sec * scale / row["ours_sec"],
    }


def _dense(loaded: LoadedModel, corpus: Corpus) -> float:
    """Seconds of a dense pass over the corpus."""
    began = time.perf_counter()
    run_pass(loaded, corpus, LossOnly(), key="dense")
    return time.perf_counter() - began


def _reference(loaded: LoadedModel, corpus: Corpus, steps: int) -> float:
    """Seconds of the first `steps` steps of the reference's bisection for PPL-1%."""
    batch = next(corpus.batches(corpus.n_windows))
    began = time.perf_counter()
    low, high = 0.0, 1.0
    with torch.inference_mode():
        for _ in range(steps):
            cett = (low + high) / 2
            ratio = _reference_step(loaded, batch, cett)
            low, high = (cett, high) if ratio < 1.01 else (low, cett)
    return time.perf_counter() - began


def _reference_step(loaded: LoadedModel, batch: Batch, cett: float) -> float:
    """Perplexity ratio at one CETT, by a dense pass, a threshold for each layer, and a sparse pass."""
    kept: list[torch.Tensor] = []
    with tapped(loaded.sites, lambda index, rows: kept.append(rows.h), gate=False):
        dense = _loss(loaded, batch)
    cuts = [
        _reference_threshold(h, site.weight, cett) / site.column_norms()
        for h, site in zip(kept, loaded.sites, strict=True)
    ]
    with tapped(loaded.sites, lambda index, rows: rows.h * (rows.h.abs() >= cuts[index]), gate=False):
        return math.exp(_loss(loaded, batch) - dense)


def _loss(loaded: LoadedModel, batch: Batch) -> float:
    return loaded.model(input_ids=batch.ids, labels=batch.ids, use_cache=False).loss.item()


def _reference_threshold(h: torch.Tensor, weight: torch.Tensor, cett: float) -> float:
    """Bisection over a grid of 65,536 thresholds up to the 0.99 quantile: 16 steps with one matrix product each."""
    norms = h.abs() * weight.norm(dim=0)
    sample = norms.flatten()[
        :: max(1, norms.numel() // 1_000_000)
    ]  # torch.quantile has a limit of 16M values
    grid = torch.linspace(0, float(sample.quantile(0.99)), 65_536)
    full = (h @ weight.T).norm(dim=-1)
    left, right = 0, len(grid)
    while left < right:
        middle = (left + right) // 2
        dropped = ((h * (norms < grid[middle])) @ weight.T).norm(dim=-1)
        left, right = (middle + 1, right) if (dropped / full).mean() < cett else (left, middle)
    return float(grid[max(left - 1, 0)])


if __name__ == "__main__":
    main()
