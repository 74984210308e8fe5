"""`Observation`: how much one sparse pass of a search raised the loss of each window over the dense loss.

The sparse and the dense loss are measured on the same tokens, so few tokens give a precise difference. The
difference is kept per window, because its scatter over windows gives the standard error of the mean.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageLevel:
    """How a stage of a pass ran (`stages.py`)."""

    level: float
    rise_factor: float
    """By which its rises were multiplied, to move them to the level of the pass."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Observation:
    """One pass at one level."""

    strength: float
    """The level as `Rule.strength` gives it."""
    rise: NDArray[np.float64]
    """`nll_sparse - nll_dense` summed over each window, nats, shape `(n_windows,)`."""
    labels: NDArray[np.float64]
    """Predicted tokens of each window, shape `(n_windows,)`."""
    on_all: bool
    """True for a pass over the whole corpus, False for a pass over the bracketing part."""
    level: float | None = None
    """The level itself, which `strength` does not give back to the last digit; None if it was not kept."""
    ratio: float | None = None
    """Activation ratio, mean over sites, on the bracketing part (without a part on all windows); None if not kept."""
    stages: tuple[StageLevel, ...] = ()
    """The stages of a pass that ran at several levels; empty for a pass at one level."""
    moved_sd: float = 0.0
    """Standard error of `mean_rise` because rises of stages were moved, nats."""

    @property
    def mean_rise(self) -> float:
        """`log(ppl_ratio)`: mean rise per predicted token, nats."""
        return float(self.rise.sum() / self.labels.sum())

    @property
    def ppl_ratio(self) -> float:
        """Perplexity of the sparse model over that of the dense one."""
        return math.exp(min(self.mean_rise, 700.0))  # `exp(710)` overflows

    def on_windows(self, windows: NDArray[np.int64]) -> Observation:
        """The same pass restricted to these windows; `on_all` becomes False."""
        return dataclasses.replace(self, rise=self.rise[windows], labels=self.labels[windows], on_all=False)


def joined(observations: Sequence[Observation]) -> Observation:
    """Join passes of several models at one level; the joint `ppl_ratio` is the mean of the models' `ppl_ratio`.

    The windows of each model are scaled so that every model has the same weight. All rises are then shifted so that
    the mean rise is the logarithm of the mean ratio.
    """
    if len(observations) == 1:
        return observations[0]
    mean = math.log(sum(one.ppl_ratio for one in observations) / len(observations))
    pooled = sum(one.mean_rise for one in observations) / len(observations)
    total = sum(float(one.labels.sum()) for one in observations) / len(observations)
    weights = [total / float(one.labels.sum()) for one in observations]
    return dataclasses.replace(
        observations[0],
        # the shift is the small difference between the logarithm of the mean and the mean of the logarithms
        rise=np.concatenate(
            [w * (o.rise + (mean - pooled) * o.labels) for w, o in zip(weights, observations, strict=True)]
        ),
        labels=np.concatenate([w * o.labels for w, o in zip(weights, observations, strict=True)]),
    )
