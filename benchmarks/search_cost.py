"""Measures the cost of finding PPL-1%, in dense forward passes, against the reference's algorithm.

    python benchmarks/search_cost.py

Our time is that of the whole `measure(..., ppl_ratio=1.01)`: calibration, search, verification on dense and on sparse
inputs, and the held-out check. The algorithm of the reference (METRICS in the paper's code) is reimplemented below. It
takes 20 bisection steps on CETT. Each step runs a dense pass that keeps all activations, a bisection of 16 steps over a
grid of 65,536 thresholds per layer (one `down_proj` each), and a sparse pass. Since its steps cost the same, the
reference is timed on some of the steps and on a part of the tokens, and its time is scaled. The result states the
factor.
"""

from __future__ import annotations

import math
import statistics
import time

import numpy as np
import torch
from _common import save, text_file, trained_model

from sparsing.measuring._measure import measure
from sparsing.measuring.calibration import calibrate
from sparsing.measuring.passes import LossOnly, run_pass
from sparsing.measuring.subject import Subject
from sparsing.models.loading import LoadedModel, load_model
from sparsing.sites.tap import tapped
from sparsing.text.corpus import Batch, Corpus, load_corpus, split_holdout

TOKENS = 112_000
REFERENCE_STEPS = 2
REFERENCE_WINDOWS = 8


def main() -> None:
    loaded = load_model(trained_model(), dtype="float32", device="cpu")
    corpus = load_corpus(str(text_file(500_000)), loaded.tokenizer, window=512, max_tokens=TOKENS)
    corpus, heldout = split_holdout(corpus, 0.1)
    pairs = [_pair(loaded, corpus) for _ in range(2)]
    around = [_dense(loaded, corpus)]
    began = time.perf_counter()
    result = measure(Subject(loaded, corpus, scores=["neuron_norm"], heldout=heldout), "cett", ppl_ratio=1.01)
    ours_sec = time.perf_counter() - began
    around.append(_dense(loaded, corpus))
    dense_sec = statistics.mean(around)
    part = corpus.part(np.arange(REFERENCE_WINDOWS))
    reference_part_sec = _reference(loaded, part, REFERENCE_STEPS)
    scale = corpus.num_tokens / part.num_tokens * 20 / REFERENCE_STEPS
    save(
        "search_cost",
        {
            "parameters": loaded.num_parameters,
            "dtype": loaded.dtype,
            "num_tokens": corpus.num_tokens,
            "heldout_tokens": heldout.num_tokens if heldout else 0,
            "dense_pass_sec": dense_sec,
            "dense_tok_per_sec": corpus.num_tokens / dense_sec,
            "calibration_dense_equivalents": statistics.median(c / d for d, c in pairs),
            "ours_sec": ours_sec,
            "ours_dense_equivalents": ours_sec / dense_sec,
            "forward_passes": result.cost.forward_passes,
            "tries": [try_.to_dict() for try_ in result.tries],
            "ppl_ratio": result.ppl_ratio,
            "heldout_ppl_ratio": result.heldout.ppl_ratio if result.heldout else None,
            "activation_ratio": result.activation_ratio,
            "activation_ratio_interval": result.activation_ratio_interval,
            "reference_timed_sec": reference_part_sec,
            "reference_timed_on": f"{part.num_tokens} tokens, {REFERENCE_STEPS} of 20 steps; scaled by {scale:.1f}",
            "reference_sec": reference_part_sec * scale,
            "reference_dense_equivalents": reference_part_sec * scale / dense_sec,
            "times_faster_than_reference": reference_part_sec * scale / ours_sec,
        },
    )


def _pair(loaded: LoadedModel, corpus: Corpus) -> tuple[float, float]:
    """Seconds of a dense pass and of a calibration right after it, so that both meet the same machine speed."""
    dense = _dense(loaded, corpus)
    began = time.perf_counter()
    calibrate(loaded, corpus)
    return dense, time.perf_counter() - began


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
