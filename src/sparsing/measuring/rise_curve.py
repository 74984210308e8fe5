"""`fit_rise`: the rise of perplexity as a smooth curve of the level, fitted to passes that carry errors.

`log(ppl_ratio)` grows like a power of the strength, so near a target it is a straight line in the logarithms:
`z = log(log(ppl_ratio))` over `x = log(strength)`. Three things keep a pass from lying on that line:
- *arithmetic noise*. Rounding in half precision, and single neurons that switch, move each pass by an amount
  that no other pass shares. Its size is estimated from how the windows of several passes scatter about their
  common curve (`arithmetic_noise`).
- *bending*. Far from the target the curve is no straight line, so far passes count less.
- *sampling*. All passes run on the same tokens, so they share this error. It moves the whole curve, does not
  disturb the fit, and belongs to the interval of the result (`intervals.py`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import optimize  # pyright: ignore[reportMissingTypeStubs]  # SciPy has no stubs

from sparsing.measuring.observation import Observation

BENDING = 0.08
"""Assumed departure from the straight line at a distance of 1 in `z`; it grows with the square of the distance."""
PART_DOUBT, PART_BENDING = 0.02, 0.05
"""Further departure of a pass over a part, at the target and per distance: its slope may differ."""
SLOPE, SLOPE_SPREAD = 2.0, 0.5
"""Slope that is assumed until the passes show it, and the standard deviation of its logarithm."""
NEAR = 1.0
"""Distance in `z` up to which a pass tells about the arithmetic noise near the target."""
_ROUGHNESS = 1e-5
"""Relative error of every rise: single neurons of single tokens switch, in any precision."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RiseFit:
    """The line `z = z_target + slope * (x - x_target)` and how well it is known."""

    strength: float
    """Where the line meets the target."""
    slope: float
    """d log(log ppl_ratio) / d log(strength)."""
    slope_sd: float
    rise_sd: float
    """Standard error of the line at `strength`, in `z`: the relative error of `log(ppl_ratio)` there."""
    target: float
    """`log(ppl_ratio)` that is wanted."""

    def rise_at(self, strength: float) -> float:
        """`log(ppl_ratio)` by the line."""
        return self.target * (strength / self.strength) ** self.slope

    @property
    def level_sd(self) -> float:
        """Standard error of `log(strength)` at the target."""
        return self.rise_sd / self.slope


def fit_rise(observations: Sequence[Observation], target: float, noise: float) -> RiseFit | None:
    """Fit the curve `rise = target * (strength / s) ** slope` by weighted least squares.

    The rises themselves are fitted, not their logarithms: with noise as large as the rise, logarithms would be
    biased and negative rises lost. The slope has a wide prior, which decides only where the passes do not.

    Args:
        observations: Passes over the whole corpus; passes over a part join after `scaled_part`.
        target: `log(ppl_ratio)` that is wanted.
        noise: Standard deviation of the arithmetic noise of `mean_rise` in a pass over the whole corpus, nats.

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
    part = np.array([not one.on_all for one in usable])
    nearest = min(rising, key=lambda one: abs(math.log(one.mean_rise / target)))
    start = math.log(nearest.strength) - math.log(nearest.mean_rise / target) / SLOPE
    return _fit_line(x, rise, sd, part, start, target)


def _fit_line(
    x: NDArray[np.float64],
    rise: NDArray[np.float64],
    sd: NDArray[np.float64],
    part: NDArray[np.bool_],
    start: float,
    target: float,
) -> RiseFit | None:
    """`rise` and `sd` are relative to the target. The parameters are `log(s)` and `log(slope)`."""
    distance = np.log(
        np.maximum(rise, 0.02)
    )  # weights must not depend on the parameters: they would run away
    bending = BENDING * distance**2 + _ROUGHNESS + part * (PART_DOUBT + PART_BENDING * np.abs(distance))
    error = np.hypot(sd, bending * np.maximum(rise, 0.02))

    def residuals(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        level, log_slope = parameters
        height = np.clip(math.exp(log_slope) * (x - level), -50, 50)
        prior = (log_slope - math.log(SLOPE)) / SLOPE_SPREAD
        return np.append((np.exp(height) - rise) / error, prior)

    best = cast("Any", optimize).least_squares(
        residuals,
        [start, math.log(SLOPE)],
        bounds=([-60, math.log(0.1)], [60, math.log(300)]),
        x_scale=[0.3, 0.3],
    )
    level, log_slope = (float(parameter) for parameter in best.x)
    jacobian: NDArray[np.float64] = best.jac
    covariance = np.linalg.pinv(jacobian.T @ jacobian)
    slope = math.exp(log_slope)
    if not math.isfinite(level):
        return None
    return RiseFit(
        strength=math.exp(level),
        slope=slope,
        slope_sd=slope * math.sqrt(max(covariance[1, 1], 0.0)),
        rise_sd=slope * math.sqrt(max(covariance[0, 0], 0.0)),
        target=target,
    )


def scaled_part(
    part: Sequence[Observation], whole: Sequence[Observation], windows: NDArray[np.int64] | None
) -> list[Observation]:
    """Passes over a part as passes over the whole would have come out, by the ratio of the two on shared passes.

    The part is a subset of the windows, so each pass over the whole corpus is also one over the part.
    """
    pairs = (
        [(one.mean_rise, one.on_windows(windows).mean_rise) for one in whole] if windows is not None else []
    )
    factors = [whole_rise / part_rise for whole_rise, part_rise in pairs if min(whole_rise, part_rise) > 0]
    if not factors:
        return list(part)
    factor = math.exp(float(np.mean(np.log(factors))))
    return [dataclasses.replace(one, rise=one.rise * factor) for one in part]


def arithmetic_noise(observations: Sequence[Observation], fit: RiseFit | None) -> float | None:
    """Standard deviation of the arithmetic noise of `mean_rise`, nats; None if the passes cannot show it.

    Along passes near the target each window follows the common curve, but for a factor and a slope of its own.
    What is left over is noise of that window, independent between windows, so it adds up to that of the mean.
    Needs three passes over the same windows near the target.
    """
    near = [one for one in observations if one.on_all and one.mean_rise > 0]
    if fit is not None:
        near = [one for one in near if abs(math.log(one.mean_rise / fit.target)) <= NEAR]
    if fit is None or len({one.strength for one in near}) < 3:
        return None
    curve = np.array([fit.rise_at(one.strength) for one in near])
    x = np.log([one.strength for one in near])
    basis = np.stack([curve, curve * (x - x.mean())], axis=1)  # (passes, 2)
    rises = np.stack([one.rise for one in near])  # (passes, n_windows)
    left = rises - basis @ np.linalg.lstsq(basis, rises, rcond=None)[0]
    freedom = len(near) - np.linalg.matrix_rank(basis)
    return float(np.sqrt((left**2).sum() / freedom)) / float(near[0].labels.sum())
