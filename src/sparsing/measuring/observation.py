"""`Observation`: what one sparse pass of a search has shown, window by window.

The rise of the negative log-likelihood over the dense model is paired over the same tokens, so few tokens make
it precise. It is kept per window, since its scatter over windows says how far the mean can be trusted.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


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
    """False for a pass over the bracketing part of the corpus."""

    @property
    def mean_rise(self) -> float:
        """`log(ppl_ratio)`: mean rise per predicted token, nats."""
        return float(self.rise.sum() / self.labels.sum())

    @property
    def ppl_ratio(self) -> float:
        """Perplexity of the sparse model over that of the dense one."""
        return math.exp(min(self.mean_rise, 700.0))  # beyond, a float overflows

    def on_windows(self, windows: NDArray[np.int64]) -> Observation:
        """The same pass, seen on some of its windows only."""
        return dataclasses.replace(self, rise=self.rise[windows], labels=self.labels[windows], on_all=False)


def joined(observations: Sequence[Observation]) -> Observation:
    """Passes of several models at one level as one observation, whose `ppl_ratio` is the mean of theirs.

    The windows of each model are scaled so that every model has the same weight, and so that the mean rise is
    the logarithm of the mean ratio.
    """
    if len(observations) == 1:
        return observations[0]
    mean = math.log(sum(one.ppl_ratio for one in observations) / len(observations))
    pooled = sum(one.mean_rise for one in observations) / len(observations)
    total = sum(float(one.labels.sum()) for one in observations) / len(observations)
    weights = [total / float(one.labels.sum()) for one in observations]
    return dataclasses.replace(
        observations[0],
        # shifting by the small difference between the mean of logarithms and the logarithm of the mean
        rise=np.concatenate(
            [w * (o.rise + (mean - pooled) * o.labels) for w, o in zip(weights, observations, strict=True)]
        ),
        labels=np.concatenate([w * o.labels for w, o in zip(weights, observations, strict=True)]),
    )
