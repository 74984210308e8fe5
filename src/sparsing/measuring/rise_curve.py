"""`fit_rise`: fits a smooth curve of the rise of perplexity over the level to passes with errors.

`log(ppl_ratio)` grows like a power of the strength, so near the target `z = log(log(ppl_ratio))` is a straight
line in `x = log(strength)`. Three effects move a pass off that line:
- *arithmetic noise*. Rounding in half precision, and single neurons that become active or inactive, change the
  rise of each pass independently. `arithmetic_noise` estimates the noise from the scatter of the windows of
  several passes around their common curve.
- *bending*. Far from the target the curve is not straight, so distant passes get less weight.
- *sampling*. All passes run on the same tokens, so they share one sampling error. It shifts the whole curve and
  does not affect the fit. The interval of the result accounts for it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import optimize  # pyright: ignore[reportMissingTypeStubs]  # SciPy has no stubs

from sparsing.measuring.intervals import relative_sampling_sd, student_factor
from sparsing.measuring.observation import Observation

BENDING = 0.08
"""Assumed deviation from the straight line at a distance of 1 in `z`; it grows with the square of the distance."""
PART_DOUBT, PART_BENDING = 0.02, 0.05
"""Additional deviation of a pass over a part: a constant, and a term per distance, since its slope may differ."""
SLOPE, SLOPE_SPREAD = 2.0, 0.5
"""Prior of the slope: its median, and the standard deviation of its logarithm."""
NEAR = 1.0
"""Passes within this distance in `z` of the target are used to estimate the arithmetic noise."""
AT_TARGET = 0.5
"""Passes within this distance in `z` of the target show whether the curve is a line there."""
_ROUGHNESS = 1e-5
"""Assumed relative error of every rise: in any precision, single neurons become active or inactive."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlopePrior:
    """What is known of the slope of a curve before the passes."""

    median: float = SLOPE
    log_sd: float = SLOPE_SPREAD
    """Standard deviation of the logarithm of the slope."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RiseFit:
    """The line `z = z_target + slope * (x - x_target)` and its standard errors."""

    strength: float
    """Where the line meets the target."""
    slope: float
    """d log(log ppl_ratio) / d log(strength)."""
    slope_sd: float
    rise_sd: float
    """Standard error of the line at `strength`, in `z`: the relative error of `log(ppl_ratio)` there."""
    target: float
    """The target `log(ppl_ratio)`."""
    misfit: float
    """Largest distance from the line of a pass near the target or next to it, in standard errors of the pass."""

    def rise_at(self, strength: float) -> float:
        """`log(ppl_ratio)` at this strength by the line."""
        return self.target * (strength / self.strength) ** self.slope

    @property
    def level_sd(self) -> float:
        """Standard error of `log(strength)` at the target."""
        return self.rise_sd / self.slope


def fit_rise(
    observations: Sequence[Observation],
    target: float,
    noise: float,
    *,
    sampling_sd: Callable[[Observation], float] | None = None,
    slope: SlopePrior | None = None,
) -> RiseFit | None:
    """Fit the curve `rise = target * (strength / s) ** slope` by weighted least squares.

    The rises themselves are fitted, not their logarithms: if the noise is as large as the rise, logarithms are
    biased, and a negative rise has none. The wide prior of the slope matters only if the passes do not determine
    the slope.

    Args:
        observations: Passes over the whole corpus, and passes over a part after `scaled_part` has rescaled them.
        target: The target `log(ppl_ratio)`.
        noise: Standard deviation of the arithmetic noise of `mean_rise` in a pass over the whole corpus, nats.
        sampling_sd: Standard error from sampling of the `mean_rise` of a pass, nats. None fits the curve of this
            text; `SamplingAgainst` gives the curve of texts of this kind.
        slope: What is known of the slope; None for `SlopePrior()`.

    Returns: None if no pass has a rise above 0.
    """
    usable = [one for one in observations if one.strength > 0]
    rising = [one for one in usable if one.mean_rise > 0]
    if not rising:
        return None
    whole = max(float(one.labels.sum()) for one in usable)
    x = np.log([one.strength for one in usable])
    rise = np.array([one.mean_rise for one in usable]) / target
    # a pass over fewer tokens averages over less noise
    sd = np.array([noise * math.sqrt(whole / float(one.labels.sum())) for one in usable]) / target
    sd = np.hypot(sd, np.array([one.moved_sd for one in usable]) / target)
    if sampling_sd is not None:
        sd = np.hypot(sd, np.array([sampling_sd(one) for one in usable]) / target)
    part = np.array([not one.on_all for one in usable])
    nearest = min(rising, key=lambda one: abs(math.log(one.mean_rise / target)))
    slope = slope or SlopePrior()
    start = math.log(nearest.strength) - math.log(nearest.mean_rise / target) / slope.median
    return _fit_line(x, rise, sd, part, start, target, slope)


def _fit_line(
    x: NDArray[np.float64],
    rise: NDArray[np.float64],
    sd: NDArray[np.float64],
    part: NDArray[np.bool_],
    start: float,
    target: float,
    known: SlopePrior,
) -> RiseFit | None:
    """Fit `log(s)` and `log(slope)`. `rise` and `sd` are relative to the target."""
    # The weights use the measured rises: if they used the fitted curve, the fit could lower the residuals by moving to
    # parameters with large errors.
    distance = np.log(np.maximum(rise, 0.02))
    bending = BENDING * distance**2 + _ROUGHNESS + part * (PART_DOUBT + PART_BENDING * np.abs(distance))
    error = np.hypot(sd, bending * np.maximum(rise, 0.02))

    def residuals(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        log_s, log_slope = parameters
        height = np.clip(math.exp(log_slope) * (x - log_s), -50, 50)
        prior = (log_slope - math.log(known.median)) / known.log_sd
        return np.append((np.exp(height) - rise) / error, prior)

    def derivatives(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        log_s, log_slope = parameters
        slope = math.exp(log_slope)
        height = np.clip(slope * (x - log_s), -50, 50)
        by_height = np.exp(height) / error
        columns = np.stack([-slope * by_height, height * by_height], axis=1)
        return np.append(columns, [[0.0, 1 / known.log_sd]], axis=0)

    best = cast("Any", optimize).least_squares(
        residuals,
        [start, math.log(known.median)],
        derivatives,
        bounds=([-60, math.log(0.1)], [60, math.log(300)]),
        x_scale=[0.3, 0.3],
    )
    log_s, log_slope = (float(parameter) for parameter in best.x)
    jacobian: NDArray[np.float64] = best.jac
    covariance = np.linalg.pinv(jacobian.T @ jacobian)
    misfits = np.abs(residuals(best.x)[:-1][(np.abs(distance) <= AT_TARGET) | _next_to_target(rise, part)])
    slope = math.exp(log_slope)
    if not math.isfinite(log_s):
        return None
    return RiseFit(
        strength=math.exp(log_s),
        slope=slope,
        slope_sd=slope * math.sqrt(max(covariance[1, 1], 0.0)),
        rise_sd=slope * math.sqrt(max(covariance[0, 0], 0.0)),
        target=target,
        misfit=float(misfits.max(initial=0.0)),
    )


def _next_to_target(rise: NDArray[np.float64], part: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The passes over the whole corpus that are next to the target on both sides. `rise` is relative to the target."""
    found = np.zeros(len(rise), dtype=np.bool_)
    for side in (rise < 1, rise >= 1):
        if (own := np.flatnonzero(side & ~part)).size:
            found[own[np.argmin(np.abs(rise[own] - 1))]] = True
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingAgainst:
    """The sampling error of the factor between the rise of a pass and the rise of a reference pass.

    Between two levels each token loses other neurons, so on a short text the slope between near levels is rough: over
    8,000 tokens and 7% of the level the demo models have slopes with a standard deviation of 0.8. The scatter of the
    windows shows this error.
    """

    reference: Observation
    """A pass over the whole corpus."""
    windows: NDArray[np.int64] | None
    """Windows of the bracketing part."""

    def __call__(self, one: Observation) -> float:
        """Standard error of `one.mean_rise`, nats, if the rise of the reference is taken as exact.

        Infinite for a pass over a single window, whose scatter is not known, and if the reference shows no rise.
        """
        if len(one.rise) < 2:
            return math.inf
        if one.on_all:
            reference = self.reference
        else:
            assert self.windows is not None
            reference = self.reference.on_windows(self.windows)
        if reference.rise.sum() == 0:
            return math.inf
        sd = relative_sampling_sd(one.rise, reference.rise) * abs(one.mean_rise)
        return sd * student_factor(len(one.rise))


def scaled_part(
    part: Sequence[Observation],
    whole: Sequence[Observation],
    windows: NDArray[np.int64] | None,
    factor: float = 1.0,
) -> list[Observation]:
    """Passes over a part, rescaled to estimate the rise over the whole corpus.

    The factor is the geometric mean of `rise on the whole / rise on the part`. The part is a subset of the windows,
    so each pass over the whole corpus gives both rises. Without such a pass, `factor` is used.
    """
    pairs = (
        [(one.mean_rise, one.on_windows(windows).mean_rise) for one in whole] if windows is not None else []
    )
    factors = [whole_rise / part_rise for whole_rise, part_rise in pairs if min(whole_rise, part_rise) > 0]
    if factors:
        factor = math.exp(float(np.mean(np.log(factors))))
    return [dataclasses.replace(one, rise=one.rise * factor) for one in part]


def arithmetic_noise(observations: Sequence[Observation], fit: RiseFit | None) -> float | None:
    """Standard deviation of the arithmetic noise of `mean_rise`, nats; None if the passes cannot show it.

    Near the target each window follows the common curve with its own factor and its own slope. The residuals of
    that fit are the noise of the window. Windows are independent, so their variances add up to the variance of the
    summed rise. The estimate needs passes at three or more different strengths near the target.
    """
    near = [one for one in observations if one.on_all and one.mean_rise > 0 and not one.stages]
    if fit is not None:
        near = [one for one in near if abs(math.log(one.mean_rise / fit.target)) <= NEAR]
    if fit is None or len({one.strength for one in near}) < 3:
        return None
    curve = np.array([fit.rise_at(one.strength) for one in near])
    x = np.log([one.strength for one in near])
    basis = np.stack([curve, curve * (x - x.mean())], axis=1)  # (passes, 2)
    rises = np.stack([one.rise for one in near])  # (passes, n_windows)
    residuals = rises - basis @ np.linalg.lstsq(basis, rises, rcond=None)[0]
    degrees_of_freedom = len(near) - np.linalg.matrix_rank(basis)
    return float(np.sqrt((residuals**2).sum() / degrees_of_freedom)) / float(near[0].labels.sum())
