"""Intervals of a coefficient, of the curve at one place, and of a new measurement there."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import t as t_distribution

from sparsing.laws.noise import jacobian
from sparsing.laws.profile import Fitted, deviance_of, deviance_through, interval


def coefficient_interval(fitted: Fitted, index: int, level: float) -> tuple[float, float, bool, bool]:
    """Profile interval of parameter `index` in the fitter's unit, and which of its ends the data close."""
    direction = np.zeros(len(fitted.best.theta))
    direction[index] = 1.0
    best = float(fitted.best.theta[index])
    low, high = fitted.form.bounds(fitted.form.names[index], fitted.x)
    return interval(
        deviance_of(fitted, index),
        best=best,
        step=_step(fitted.noise.standard_error(direction) * np.sqrt(fitted.cutoff(level)), best),
        low=low,
        high=high,
        cutoff=fitted.cutoff(level),
    )


def profile(
    fitted: Fitted, index: int, ends: tuple[float, float], num: int = 61
) -> tuple[np.ndarray, np.ndarray]:
    """Values of parameter `index` around its interval and the deviance at each, both shape `(num,)`."""
    low, high = fitted.form.bounds(fitted.form.names[index], fitted.x)
    width = ends[1] - ends[0]
    values = np.linspace(max(low, ends[0] - 0.2 * width), min(high, ends[1] + 0.2 * width), num)
    deviance = deviance_of(fitted, index)
    # from the best value outwards, so that every search starts beside a solved one
    outwards = sorted(values, key=lambda value: abs(value - fitted.best.theta[index]))
    at = {value: deviance(value) for value in outwards}
    return values, np.array([at[value] for value in values])


def curve_interval(fitted: Fitted, x: float, level: float) -> tuple[float, float]:
    """Profile interval of the law's value at `x`; an end that the data do not close is 0 or 1."""
    at = np.array([x])
    best = float(fitted.form.evaluate(at, fitted.best.theta)[0])
    direction = jacobian(fitted.form, at, fitted.best.theta)[0]
    cutoff = fitted.cutoff(level)
    low, high, low_closed, high_closed = interval(
        deviance_through(fitted, x),
        best=best,
        step=_step(fitted.noise.standard_error(direction) * np.sqrt(cutoff), best),
        low=min(0.0, best),
        high=max(1.0, best),
        cutoff=cutoff,
    )
    return (low if low_closed else min(0.0, best)), (high if high_closed else max(1.0, best))


def prediction_interval(
    fitted: Fitted, x: float, level: float, curve: tuple[float, float] | None = None
) -> tuple[float, float]:
    """Where a new measurement at `x` falls: the curve's interval and the noise, added as variances.

    Args:
        curve: what `curve_interval` says at `x`, where that is known already.
    """
    best = float(fitted.form.evaluate(np.array([x]), fitted.best.theta)[0])
    low, high = curve or curve_interval(fitted, x, level)
    scatter = float(t_distribution.ppf(0.5 + level / 2, fitted.noise.df)) * fitted.noise.sd
    low, high = best - math.hypot(best - low, scatter), best + math.hypot(high - best, scatter)
    return max(low, 0.0), min(high, 1.0)


def _step(guess: float, best: float) -> float:
    """A first half-width that is neither nothing nor out of all proportion."""
    size = max(abs(best), 1e-3)
    return float(min(max(guess, 1e-5 * size), 0.5 * size)) if np.isfinite(guess) else 0.1 * size
