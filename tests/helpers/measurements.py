"""Measurements made without a model, for tests of reports: random numbers of the right shapes."""

from __future__ import annotations

import dataclasses

import numpy as np

from sparsing.base.provenance import Provenance
from sparsing.measuring.measurement import Cost, Interval, Measurement
from sparsing.rules.thresholds import Thresholds

NASTY_TOKENS = (
    " the",
    "\n",
    "\t\x00\x1b[0m",
    "$x_1$",
    "a$b",
    "\\frac{",
    "<script>",
    "\u4f60\u597d",
    "\U0001f9d1\u200d\U0001f680",
    "\ud800",
    "\u202eabc",
    "  ",
    "",
    "_" * 40,
    "%&#{}~^",
    "\u05d0\u0e01\u0915\u094d",
)


def make_measurement(
    *,
    n_layers: int = 4,
    num_tokens: int = 16,
    d_ff: int = 24,
    width: int = 64,
    rule: str = "cett",
    select: str = "above",
    level: float = 0.2,
    target_ppl_ratio: float | None = 1.01,
    intervals: bool = True,
    **changed: object,
) -> Measurement:
    """A measurement of these sizes; `changed` replaces fields of the measurement or of its provenance."""
    rng = np.random.default_rng(n_layers + num_tokens)
    ratios = tuple(rng.uniform(0.2, 0.6, n_layers).tolist())
    mean = float(np.mean(ratios))
    around: Interval | None = (mean - 0.01, mean + 0.02) if intervals else None
    text = [NASTY_TOKENS[i % len(NASTY_TOKENS)] for i in range(num_tokens)]
    seen = {f.name: changed.pop(f.name) for f in dataclasses.fields(Provenance) if f.name in changed}
    values = {
        "rule": rule,
        "level": level,
        "level_name": "CETT",
        "target_ppl_ratio": target_ppl_ratio,
        "activation_ratio": mean,
        "activation_ratio_interval": around,
        "layer_activation_ratio": ratios,
        "layer_activation_ratio_interval": tuple((r - 0.01, r + 0.01) for r in ratios) if intervals else None,
        "ppl_dense": 12.0,
        "ppl_sparse": 12.12,
        "ppl_ratio": 1.01,
        "ppl_ratio_interval": (1.008, 1.0125) if intervals else None,
        "cett_dense_inputs": tuple(rng.uniform(0.19, 0.21, n_layers).tolist()),
        "cett_sparse_inputs": tuple(rng.uniform(0.15, 0.25, n_layers).tolist()),
        "dead_neuron_ratio": (0.25,) * n_layers,
        "num_tokens": 5000,
        "n_windows": 8,
        "converged": True,
        "monotone": True,
        "tries": (),
        "thresholds": Thresholds(
            rule=rule,
            level=level,
            on="neuron_norm",
            select=select,
            values=tuple(rng.uniform(0.1, 0.3, n_layers).tolist()),
        ),
        "heldout": None,
        "neuron_frequency": np.where(
            rng.random((n_layers, d_ff)) < 0.25, 0, rng.random((n_layers, d_ff))
        ).astype(np.float32),
        "position_activation_ratio": np.append(rng.uniform(0.2, 0.6, width - 1), np.nan).astype(np.float32),
        "token_activation_ratio": rng.random((num_tokens, n_layers)).astype(np.float32),
        "sites": tuple(f"model.layers.{i}.mlp.down_proj" for i in range(n_layers)),
        "token_text": tuple(text),
        "cost": Cost(forward_passes=5.0, dense_forward_equivalents=6.0, wall_sec=1.0),
        "provenance": Provenance(**{"model": "some/folder/cost_$5_$6", "corpus": "a$b$c.txt", **seen}),  # pyright: ignore
    }
    return Measurement(**{**values, **changed})  # pyright: ignore
