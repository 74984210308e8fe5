"""`EvenStrengths`: the strengths of a rule, expressed so that the rise of perplexity is expected to be a square.

A search follows the rise of perplexity over the strength. The rise is nearly a weighted sum of the squared errors of
the outputs of the sites (CETT, Sparsing Law, equation 3), which calibration has measured (`expected_rise.py`). So the
root of this sum takes the place of the strength: whatever the rule, the rise is then about a power law with exponent 2.
FAT on a SiLU gate shows why that matters. Many gates have nearly the same size, so a small step of its threshold drops
them all, and the rise over the threshold has a cliff there. Over the root of the error it has none.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sparsing.rules import Rule
    from sparsing.rules.curves import Curves

_STEP = 0.05
"""Distance in log(strength) of the levels at which the error is looked up, near the start."""
_STEPS = np.array([*range(-50, -30, 2), *range(-30, 30), *range(30, 92, 2)])
"""Places of these levels in steps, around a place near the start. ReLU models need the long way up, since zeros cost
nothing. Beyond the last levels the error grows like a square."""
_SHARED = 20
"""Starts that are within so many steps of each other share the levels."""
_FEWEST = 10
"""Fewest levels at which there must be an error."""
_FLATTEST, _STEEPEST = 0.1, 10.0
"""Limits of the stretch: where no neuron lies between two levels the error does not change."""


@dataclasses.dataclass(frozen=True, eq=False)
class EvenStrengths:
    """Maps strengths to even strengths and back. Both rise together, and 0 is 0."""

    log_strength: NDArray[np.float64]
    log_even: NDArray[np.float64]
    """Both rising, shape `(n,)`."""

    @classmethod
    def of(
        cls, rule: Rule, start: float, most: float, curves: Curves, weights: NDArray[np.float64] | None = None
    ) -> EvenStrengths | None:
        """The map for this rule, equal at `start`; None if the curves do not show the error of the rule.

        Args:
            start: A strength near those that will be tried, above 0.
            most: The largest strength.
            weights: How much an error at each site hurts, up to a common factor, shape `(n_sites,)`; None for equally.
        """
        log_start = math.log(start)
        log_strength = _places(log_start, math.log(most))
        errors = _errors(rule, log_strength, curves)
        if errors is None:
            return None
        log_even = _integrated(log_strength, errors.mean(1) if weights is None else errors @ weights)
        if log_even is None:
            return None
        return cls(
            np.array(log_strength), log_even + log_start - np.interp(log_start, log_strength, log_even)
        )

    def even(self, strength: float) -> float:
        """The even strength of a strength."""
        return _mapped(strength, self.log_strength, self.log_even)

    def strength(self, even: float) -> float:
        """The strength of an even strength."""
        return _mapped(even, self.log_even, self.log_strength)

    def stretch(self, strength: float) -> float:
        """d log(even strength) / d log(strength)."""
        return math.log(self.even(strength * math.exp(_STEP)) / self.even(strength * math.exp(-_STEP))) / (
            2 * _STEP
        )


def _places(log_start: float, log_most: float) -> tuple[float, ...]:
    """Logarithms of the strengths at which the errors are looked up, rising."""
    middle = _SHARED * round(log_start / _STEP / _SHARED)
    return tuple(np.unique(np.minimum((middle + _STEPS) * _STEP, log_most)).tolist())


@functools.lru_cache(maxsize=64)  # the targets of a rule ask for the same errors
def _errors(rule: Rule, log_strength: tuple[float, ...], curves: Curves) -> NDArray[np.float64] | None:
    """Squared errors of each site, shape `(n, n_sites)`; None if the curves do not show them."""
    errors = [rule.squared_errors(rule.level(math.exp(x)), curves) for x in log_strength]
    known = [error for error in errors if error is not None]
    return np.stack(known) if len(known) == len(errors) else None


def _integrated(log_strength: tuple[float, ...], errors: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Logarithms of the roots of the errors from the first on; None if too few levels have an error."""
    if (errors > 0).sum() < _FEWEST:
        return None
    run = np.diff(log_strength)
    stretch = np.clip(np.diff(np.log(np.maximum(errors, 1e-30)) / 2) / run, _FLATTEST, _STEEPEST)
    return np.concatenate([[0.0], np.cumsum(stretch * run)])


def _mapped(value: float, xs: NDArray[np.float64], ys: NDArray[np.float64]) -> float:
    """The value, with its logarithm interpolated, and moved by the shift of the nearer end beyond the ends."""
    if value <= 0 or not math.isfinite(value) or xs is ys:
        return value
    x = math.log(value)
    inside = min(max(x, xs[0]), xs[-1])
    return math.exp(float(np.interp(inside, xs, ys)) + x - inside)


_SAME = np.array([0.0, 1.0])
SAME_STRENGTHS = EvenStrengths(_SAME, _SAME)
"""Every strength is its own even strength: the rise is expected to be a square of it."""
