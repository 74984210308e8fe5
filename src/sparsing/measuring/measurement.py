"""`Measurement`: the result of `measure`. Its field names are those of the JSON, the tables and the report.

Loading this module needs no torch, so that a report can be made without it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from sparsing.base.provenance import Provenance
from sparsing.base.results import Result
from sparsing.measuring.search import Try
from sparsing.measuring.weight_bytes import WeightBytes
from sparsing.rules.thresholds import Thresholds

Interval = tuple[float, float]
DEAD_BELOW = 1e-3
"""A neuron is dead when active on less than this share of tokens (Sparsing Law, section 5)."""

DEAD_BELOW = 1e-3
"""A neuron is dead when active on less than this share of tokens (Sparsing Law, section 5)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOut(Result):
    """The same thresholds on tokens that had no part in finding them."""

    kind = "held_out"

    num_tokens: int
    ppl_dense: float
    ppl_sparse: float
    ppl_ratio: float
    ppl_ratio_interval: Interval | None
    """95%, over windows; None for one window."""
    activation_ratio: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost(Result):
    """What the measurement took."""

    kind = "measurement_cost"

    forward_passes: float
    """Tokens that were run through the model, over tokens of the corpus (held-out ones and tries included)."""
    dense_forward_equivalents: float
    """Wall time over that of plain dense passes on the corpus, at the speed of a short timing in this run."""
    wall_sec: float


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Measurement(Result):
    """Sparsity of a model under one rule at one level. Ratios are in [0, 1]; intervals are 95%, over windows."""

    kind = "measurement"

    sites: tuple[str, ...]
    """Name of each site, in layer order. Entry `i` of everything that is given per layer belongs to `sites[i]`.

    `#0`, `#1`, ... in files of schema 1, which had no names."""
    rule: str
    level: float
    level_name: str
    """What the level is, with its unit."""
    target_ppl_ratio: float | None
    """The perplexity ratio that was searched for; None if the level was given."""
    activation_ratio: float
    """Mean over tokens, then over layers, in the sparse run."""
    activation_ratio_interval: Interval | None
    """After a search it contains the doubt about the level too: other text meets the target at another level."""
    layer_activation_ratio: tuple[float, ...]
    """Mean over tokens, `n_layers` numbers."""
    layer_activation_ratio_interval: tuple[Interval, ...] | None
    ppl_dense: float
    ppl_sparse: float
    ppl_ratio: float
    """`exp(nll_sparse - nll_dense)` on the same tokens."""
    ppl_ratio_interval: Interval | None
    cett_dense_inputs: tuple[float, ...]
    """Realised CETT of each layer when the layers before it are dense: the definition."""
    cett_sparse_inputs: tuple[float, ...]
    """The same in the sparse run."""
    dead_neuron_ratio: tuple[float, ...]
    """Share of each layer's neurons that are active on less than 0.1% of tokens."""
    num_tokens: int
    """Counted tokens; the held-out ones are not among them."""
    n_windows: int
    converged: bool
    """False when the wanted perplexity ratio was not met within 1e-4."""
    monotone: bool
    """False when a sparser level was seen to have the lower perplexity."""
    tries: tuple[Try, ...]
    """Passes of the search, in order."""
    thresholds: Thresholds
    heldout: HeldOut | None
    neuron_frequency: np.ndarray
    """Share of tokens on which each neuron is active, `(n_layers, d_ff)`, float32; NaN beyond a narrower layer."""
    position_activation_ratio: np.ndarray
    """Mean over layers and windows by position in the window, shape `(width,)`; NaN where nothing counts."""
    token_activation_ratio: np.ndarray
    """The first counted tokens of the corpus, shape `(shown, n_layers)`, float32."""
    token_text: tuple[str, ...]
    """Those tokens as text, in place; empty for one that is a part of the character of the next."""
    token_top_neuron: np.ndarray | None = None
    """Their neurons with the largest `neuron_norm`, largest first, shape `(shown, n_layers, top)`, int32."""
    token_top_norm: np.ndarray | None = None
    """Those `neuron_norm`s, same shape, float32."""
    weights: WeightBytes | None = None
    """What decoding a token reads."""
    cost: Cost
    provenance: Provenance

    @classmethod
    def upgraded(cls, document: dict[str, Any], version: int) -> dict[str, Any]:
        """Schema 1 knew layers by position only."""
        return {"sites": [f"#{i}" for i in range(len(document["layer_activation_ratio"]))]} | document

    @property
    def sparsity(self) -> float:
        """`1 - activation_ratio`."""
        return 1 - self.activation_ratio

    @property
    def name(self) -> str:
        """Short name of what was measured, e.g. `PPL-1%` or `fat 0.05`."""
        if self.target_ppl_ratio is None:
            return f"{self.rule} {self.level:.4g}"
        percent = f"PPL-{round((self.target_ppl_ratio - 1) * 100, 4):g}%"
        return percent if self.rule == "cett" else f"{self.rule} {percent}"

    @property
    def slug(self) -> str:
        """`name` as a folder name, e.g. `cett-ppl-1` or `fat-0.05`."""
        if self.target_ppl_ratio is None:
            return f"{self.rule}-{self.level:.4g}"
        return f"{self.rule}-ppl-{round((self.target_ppl_ratio - 1) * 100, 4):g}"
