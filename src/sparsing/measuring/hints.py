"""`Hints`: what is known of a search before it begins, and what a pass over the part adds to that."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparsing.measuring.intervals import relative_sampling_sd
from sparsing.measuring.rise_curve import SlopePrior

if TYPE_CHECKING:
    from sparsing.measuring.even_strengths import EvenStrengths
    from sparsing.measuring.observation import Observation

_TAILS = 4
"""Degrees of freedom of the rise where a search begins, around the target."""
_FARTHEST = 6.0
"""Largest distance in `log(log(ppl_ratio))` of the start of a search from the target that is considered."""
_OFF_CURVE = 0.1
"""Deviation of any rise from a power law, as a share of the target: few dropped neurons may lower the loss."""
UNKNOWN_START_SD = 1.5
"""Standard deviation of `log(log(ppl_ratio))` where a search begins of which nothing is known, around the target."""


def relative_error_of_part(one: Observation) -> float:
    """Relative sampling error of the rise over the part; for a single window, whose scatter is not known, 1."""
    return relative_sampling_sd(one.rise, one.labels) if len(one.rise) > 1 else 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hints:
    """What is known before a search begins, from searches of other rules on the same tokens."""

    part_factor: float = 1.0
    """Rise over the whole corpus divided by the rise over the bracketing part, at the same level."""
    part_sd: float = 0.4
    """Standard deviation of the logarithm of `part_factor`: how much it differs between rules."""
    start_sd: float = UNKNOWN_START_SD
    """Standard deviation of `log(log(ppl_ratio))` at the level where the search begins, around the target."""
    even: EvenStrengths | None = None
    """The strengths of the rule over which its curve is expected to be a square; None if that is not known."""
    slope: SlopePrior = dataclasses.field(default_factory=SlopePrior)
    """Of the curve of the rule over its even strengths."""
    wants_slope: bool = False
    """Whether the slope of this search would help the next ones, since few searches have shown one."""
    noise: float | None = None
    """Standard deviation of the arithmetic noise of `mean_rise` over the whole corpus, nats; None if not known."""

    def with_more_windows(self, part_share: float, share: float) -> Hints:
        """The hints for the part together with other windows, as a larger part.

        Args:
            part_share: Share of the part in the tokens of the corpus.
            share: Share of all these windows.
        """
        others = max(1 - part_share / self.part_factor, 0.0) / (1 - part_share)
        factor = share / (part_share / self.part_factor + (share - part_share) * others)
        sd = self.part_sd * part_share * (1 - share) / ((1 - part_share) * share)
        return dataclasses.replace(self, part_factor=factor, part_sd=sd)

    def distance_after(
        self, one: Observation, target: float, start_sd: float, expected: float = 0.0
    ) -> tuple[float, float]:
        """Where a pass over the part lies: `log(rise / target)` over the whole corpus, and its standard deviation.

        Median and width of the posterior. The rise over the part has the errors of its windows and of its factor.

        Args:
            start_sd: Standard deviation of the distance before the pass, with wide tails.
            expected: The distance that was expected before the pass.
        """
        measured = one.mean_rise * self.part_factor / target
        # of a single window the scatter is not known
        error = relative_error_of_part(one) * max(abs(measured), float(len(one.rise) == 1))
        error = math.hypot(error, _OFF_CURVE)
        z = np.linspace(-_FARTHEST, _FARTHEST, 601)
        nodes = np.linspace(-3, 3, 31)
        factors = np.exp(self.part_sd * nodes)
        log_likelihood = -(((measured - np.exp(z)[:, None] / factors) / error) ** 2 + nodes**2) / 2
        # relative to the largest, since far from every distance all of them vanish
        likelihood = np.exp(log_likelihood - log_likelihood.max()).sum(1)
        return _median_and_width(z, likelihood * _student((z - expected) / start_sd))


def _student(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Density of Student's t with `_TAILS` degrees of freedom, up to a factor."""
    return (1 + x**2 / _TAILS) ** (-(_TAILS + 1) / 2)


def _median_and_width(x: NDArray[np.float64], density: NDArray[np.float64]) -> tuple[float, float]:
    """Median of a distribution and half the distance between its quantiles at one standard deviation."""
    total = np.cumsum(density) / density.sum()
    low, middle, high = (float(np.interp(share, total, x)) for share in (0.159, 0.5, 0.841))
    return middle, (high - low) / 2


NO_HINTS = Hints()
