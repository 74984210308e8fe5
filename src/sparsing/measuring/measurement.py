"""`Measurement`: the result of `measure`, which the tables and the report show.

Its field names are the names in the saved JSON. This module does not import torch, so that a report can be made where
torch is not installed.
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from sparsing.base.checked_files import file_in_run
from sparsing.base.provenance import Provenance
from sparsing.base.results import Result
from sparsing.measuring.savings import Savings
from sparsing.measuring.search_result import Try
from sparsing.measuring.site_names import SiteName, site_names
from sparsing.measuring.weight_bytes import WeightBytes
from sparsing.rules.thresholds import Thresholds

if TYPE_CHECKING:
    from pandas import DataFrame  # pyright: ignore[reportMissingTypeStubs]

MEASUREMENT_FILE = "measurement.json"
"""Name of the file of a measurement in its folder."""
Interval = tuple[float, float]
"""Lower and upper end of a 95% confidence interval."""
DEAD_BELOW = 1e-3
"""A neuron that is active on less than this share of tokens is dead (Sparsing Law, section 5)."""
TOO_WIDE = 1.0
"""An interval of the perplexity ratio wider than this share of the target rise gives a warning."""
NOISY_SHARE = 0.05
"""Arithmetic noise of the perplexity ratio above this share of the target rise gives a warning."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOut(Result):
    """Perplexity and activation ratio at the same thresholds on tokens that were not used to find them."""

    kind = "held_out"

    num_tokens: int
    ppl_dense: float
    ppl_sparse: float
    ppl_ratio: float
    ppl_ratio_interval: Interval | None
    """95% interval over windows; None for one window."""
    activation_ratio: float


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ExpertActivity(Result):
    """Activity of the routed experts of one layer. A token is routed to `top_k` of `n_experts` experts."""

    kind = "expert_activity"

    site: str
    """Name of the site, one of `Measurement.sites`."""
    n_experts: int
    top_k: int
    d_ff: int
    """Neurons of each expert."""
    activation_ratio: float
    """Of the neurons of the experts that a token is routed to, mean over tokens."""
    activation_ratio_of_all: float
    """Of the neurons of all experts of the layer, mean over tokens: `activation_ratio * top_k / n_experts`."""
    expert_load: NDArray[np.float64]
    """Share of tokens that are routed to each expert, shape `(n_experts,)`. The shares add up to `top_k`."""
    expert_activation_ratio: NDArray[np.float64]
    """Activation ratio of each expert over its own tokens, shape `(n_experts,)`; NaN for an expert without a token."""
    cett_with_shared: float | None
    """Realised CETT of the sum of routed and shared experts on dense inputs; None if the layer has no shared expert."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost(Result):
    """The cost of a measurement."""

    kind = "measurement_cost"

    forward_passes: float
    """Tokens that were run through the model, divided by the tokens of the corpus. Passes over the held-out text and
    passes of the search are included."""
    dense_forward_equivalents: float
    """Wall time divided by the time of a dense pass over the corpus, as estimated from a few batches of this run."""
    wall_sec: float


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Measurement(Result):
    """Sparsity of a model under one rule at one level. Ratios are in [0, 1]; intervals are 95%, over windows."""

    kind = "measurement"

    sites: tuple[str, ...]
    """Name of each site, in layer order. Entry `i` of every field with a value per layer belongs to `sites[i]`.

    `#0`, `#1`, ... in files of schema 1, which has no names."""
    rule: str
    level: float
    level_name: str
    """Meaning of the level, with its unit."""
    target_ppl_ratio: float | None
    """The perplexity ratio that was searched for; None if the level was given."""
    activation_ratio: float
    """Mean over tokens, then over layers, in the sparse pass."""
    activation_ratio_interval: Interval | None
    """After a search it covers the uncertainty of the level too: on other text another level meets the target."""
    layer_activation_ratio: tuple[float, ...]
    """Mean over tokens, `n_layers` numbers."""
    layer_activation_ratio_interval: tuple[Interval, ...] | None
    ppl_dense: float
    ppl_sparse: float
    ppl_ratio: float
    """`exp(nll_sparse - nll_dense)` on the same tokens."""
    ppl_ratio_interval: Interval | None
    cett_dense_inputs: tuple[float, ...]
    """Realised CETT of each layer if the layers before it are dense, as CETT is defined."""
    cett_sparse_inputs: tuple[float, ...]
    """Realised CETT of each layer in the sparse pass, where the layers before it are sparse too."""
    dead_neuron_ratio: tuple[float, ...]
    """Share of each layer's neurons that are active on less than 0.1% of tokens."""
    num_tokens: int
    """Counted tokens, without held-out tokens."""
    n_windows: int
    converged: bool
    """False if no level was found whose perplexity ratio is within 1e-4 of the target."""
    monotone: bool
    """False if the search saw a sparser level with a lower perplexity."""
    tries: tuple[Try, ...]
    """Passes of the search, in order."""
    fitted_ppl_ratio: float | None = None
    """By the smooth curve through all passes of the search, at this level; None if no level was searched for."""
    ppl_ratio_noise: float | None = None
    """Standard deviation of the arithmetic noise of `ppl_ratio` in half precision; None in other precisions."""
    thresholds: Thresholds
    heldout: HeldOut | None
    neuron_frequency: NDArray[np.float32]
    """Share of tokens on which each neuron is active, `(n_layers, d_ff)`, float32; NaN beyond a narrower layer.

    Neuron `i` of routed expert `e` has the number `e * d_ff + i`. Its tokens are those that are routed to its expert;
    without such a token its share is 0."""
    position_activation_ratio: NDArray[np.float32]
    """Mean over layers and windows by position in the window, shape `(width,)`, float32; NaN where no token counts."""
    token_activation_ratio: NDArray[np.float32]
    """Activation ratio of the first counted tokens of the corpus, shape `(shown, n_layers)`, float32."""
    token_text: tuple[str, ...]
    """Text of each of these tokens; empty if the token is a part of a character that the next token completes."""
    token_top_neuron: NDArray[np.int32] | None = None
    """Neurons with the largest `neuron_norm` at these tokens, largest first, shape `(shown, n_layers, top)`, int32."""
    token_top_norm: NDArray[np.float32] | None = None
    """The `neuron_norm` of these neurons, same shape, float32."""
    experts: tuple[ExpertActivity, ...] = ()
    """Activity of the routed experts, one entry per layer that has them."""
    weights: WeightBytes | None = None
    """Bytes of weights that decoding a token reads."""
    savings: Savings | None = None
    """Weights that a token reads under the rule; None in files written before they were counted."""
    cost: Cost
    provenance: Provenance

    @classmethod
    def upgraded(cls, document: dict[str, Any], version: int) -> dict[str, Any]:
        """Schema 1 identifies layers by position only."""
        return {"sites": [f"#{i}" for i in range(len(document["layer_activation_ratio"]))]} | document

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads a measurement from its file, its folder, or the folder of a run with a single measurement.

        Raises:
            InputError: as `Result.load`, or if the folder of a run holds several measurements.
        """
        return super().load(file_in_run(path, MEASUREMENT_FILE))

    def to_frame(self) -> DataFrame:
        """One row per layer as a pandas `DataFrame`, with the columns of `layer_columns`."""
        import pandas as pd  # pyright: ignore[reportMissingTypeStubs]

        return pd.DataFrame(self.layer_columns())

    def layer_columns(self) -> dict[str, list[Any]]:
        """The figures of each layer, by column; `layers.csv` of a run has the same columns."""
        intervals = self.layer_activation_ratio_interval or [(None, None)] * len(self.sites)
        return {
            "layer": list(self.layer_numbers),
            "site": list(self.sites),
            "activation_ratio": list(self.layer_activation_ratio),
            "activation_ratio_low": [low for low, _ in intervals],
            "activation_ratio_high": [high for _, high in intervals],
            # routed experts may have a threshold each, which thresholds.json lists
            "threshold": [values[0] if len(values) == 1 else None for values in self.site_thresholds],
            "cett_dense_inputs": list(self.cett_dense_inputs),
            "cett_sparse_inputs": list(self.cett_sparse_inputs),
            "dead_neuron_ratio": list(self.dead_neuron_ratio),
        }

    def __repr__(self) -> str:
        interval = self.activation_ratio_interval
        spread = f" [{interval[0]:.2%}, {interval[1]:.2%}]" if interval else ""
        return (
            f"Measurement({self.provenance.model}, {self.name}: activation ratio {self.activation_ratio:.2%}{spread},"
            f" ppl_ratio {self.ppl_ratio:.5f}, {self.num_tokens:,} tokens)"
        )

    @property
    def site_thresholds(self) -> tuple[tuple[float, ...], ...]:
        """The numbers of each site: one, or one per routed expert of the site."""
        if len(self.thresholds.values) == len(self.sites):
            return tuple((number,) for number in self.thresholds.numbers)
        sizes = {activity.site: activity.n_experts for activity in self.experts}
        numbers = iter(self.thresholds.numbers)
        return tuple(tuple(itertools.islice(numbers, sizes.get(site, 1))) for site in self.sites)

    @property
    def site_names(self) -> tuple[SiteName, ...]:
        """Short names of each site and of its neurons."""
        return site_names(self.sites, {activity.site: activity.d_ff for activity in self.experts})

    @property
    def layer_numbers(self) -> tuple[int, ...]:
        """Number of each site's layer, as the model counts its layers; layers without a block have no site."""
        return tuple(name.layer for name in self.site_names)

    @property
    def site_labels(self) -> tuple[str, ...]:
        """A short label of each site: the number of its layer, and its block if a layer has more than one."""
        return tuple(name.label for name in self.site_names)

    @property
    def sparsity(self) -> float:
        """`1 - activation_ratio`."""
        return 1 - self.activation_ratio

    @property
    def name(self) -> str:
        """Short name of the rule and its level, e.g. `PPL-1%` or `fat 0.05`."""
        if self.target_ppl_ratio is None:
            return f"{self.rule} {self.level:.4g}"
        percent = f"PPL-{round((self.target_ppl_ratio - 1) * 100, 4):g}%"
        return percent if self.rule == "cett" else f"{self.rule} {percent}"

    @property
    def slug(self) -> str:
        """`name` as a folder name, e.g. `cett-ppl-1` or `fat-0.05`."""
        return measurement_slug(self.rule, self.level, self.target_ppl_ratio)


def measurement_slug(rule: str, level: float | None = None, target_ppl_ratio: float | None = None) -> str:
    """Name of the folder of a measurement of `rule`, at a level or at the perplexity ratio that was searched for."""
    rule = rule.replace(":", "-")  # not allowed in names of files on every system
    if target_ppl_ratio is None:
        return f"{rule}-{level:.4g}"
    return f"{rule}-ppl-{round((target_ppl_ratio - 1) * 100, 4):g}"
