"""Intervals of a fitted law: of a coefficient, of the curve at one `x`, and of a new measurement there."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import t as t_distribution

from sparsing.laws.noise import jacobian
from sparsing.laws.profile import (
    CurveFit,
    ProfileInterval,
    coefficient_deviance,
    curve_deviance,
    find_interval,
)


def coefficient_interval(fit: CurveFit, index: int, level: float) -> ProfileInterval:
    """Profile interval of parameter `index`, in the fitter's number."""
    direction = np.zeros(len(fit.best.theta))
    direction[index] = 1.0
    best = float(fit.best.theta[index])
    low, high = fit.form.bounds(fit.form.names[index], fit.x)
    return find_interval(
        coefficient_deviance(fit, index),
        best=best,
        step=_step(fit.noise.standard_error(direction) * np.sqrt(fit.cutoff(level)), best),
        low=low,
        high=high,
        cutoff=fit.cutoff(level),
    )


def profile_coefficient(
    fit: CurveFit, index: int, ends: tuple[float, float], num: int = 61
) -> tuple[np.ndarray, np.ndarray]:
    """Values of parameter `index` in and around its interval, and the deviance at each, both shape `(num,)`.

    Args:
        ends: Ends of the interval, in the fitter's number.
    """
    low, high = fit.form.bounds(fit.form.names[index], fit.x)
    width = ends[1] - ends[0]
    values = np.linspace(max(low, ends[0] - 0.2 * width), min(high, ends[1] + 0.2 * width), num)
    deviance = coefficient_deviance(fit, index)
    # From the best value outwards, so that every search starts next to a solved value.
    outwards = sorted(values, key=lambda value: abs(value - fit.best.theta[index]))
    by_value = {value: deviance(value) for value in outwards}
    return values, np.array([by_value[value] for value in values])


def curve_interval(fit: CurveFit, x: float, level: float) -> tuple[float, float]:
    """Profile interval of the law's value at `x`; an end that the data leave open is 0 or 1."""
    at = np.array([x])
    best = float(fit.form.evaluate(at, fit.best.theta)[0])
    direction = jacobian(fit.form, at, fit.best.theta)[0]
    cutoff = fit.cutoff(level)
    # A ratio lies in [0, 1], but the best curve of a law without a limit may leave that range.
    low, high = min(0.0, best), max(1.0, best)
    interval = find_interval(
        curve_deviance(fit, x),
        best=best,
        step=_step(fit.noise.standard_error(direction) * np.sqrt(cutoff), best),
        low=low,
        high=high,
        cutoff=cutoff,
    )
    return (interval.low if interval.low_closed else low), (interval.high if interval.high_closed else high)


def prediction_interval(
    fit: CurveFit, x: float, level: float, curve: tuple[float, float] | None = None
) -> tuple[float, float]:
    """Interval of a new measurement at `x`: the curve's interval and the noise, added as variances.

    Args:
        curve: The result of `curve_interval` at `x`, if it is known already; computing it is expensive.
    """
    best = float(fit.form.evaluate(np.array([x]), fit.best.theta)[0])
    low, high = curve or curve_interval(fit, x, level)
    scatter = float(t_distribution.ppf(0.5 + level / 2, fit.noise.df)) * fit.noise.sd
    low, high = best - math.hypot(best - low, scatter), best + math.hypot(high - best, scatter)
    return max(low, 0.0), min(high, 1.0)


def intervals_over_forms(
    fits: Sequence[CurveFit], x: float, level: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """`curve_interval` and `prediction_interval` at `x`, each from its lowest to its highest end over several forms.

    Args:
        fits: Forms on the same points.
    """
    curves = [curve_interval(fit, x, level) for fit in fits]
    new = [prediction_interval(fit, x, level, curve) for fit, curve in zip(fits, curves, strict=True)]
    return _hull(curves), _hull(new)


def _hull(ends: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return min(low for low, _ in ends), max(high for _, high in ends)


def _step(guess: float, best: float) -> float:
    """A first half-width: the guess, limited to between 1e-5 and half of the size of the value."""
    size = max(abs(best), 1e-3)
    return float(min(max(guess, 1e-5 * size), 0.5 * size)) if np.isfinite(guess) else 0.1 * size
