"""Profile likelihood: how much worse the best curve becomes when a coefficient or a value of the curve is held.

The deviance is `(rss(held) - rss(best)) / (sd**2 * inflation)`. The inflation is the factor by which AR(1) noise widens
the variance of the linearised coefficient (adjusted likelihood ratio, Kent 1982). The deviance is compared with the
distribution `F(1, df)`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy.stats import f as f_distribution

from sparsing.laws.form import Form
from sparsing.laws.noise import Noise, jacobian
from sparsing.laws.solve import Problem, Solution, find_root, solve


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurveFit:
    """A fitted curve without its intervals: the kept points, the form, the best parameters and the noise."""

    form: Form
    x: np.ndarray
    """Billion tokens, or width over depth, shape `(num_points,)`."""
    y: np.ndarray
    """Activation ratios, shape `(num_points,)`."""
    best: Solution
    noise: Noise

    def cutoff(self, level: float) -> float:
        """Deviance at the ends of an interval with this confidence level."""
        return float(f_distribution.ppf(level, 1, self.noise.df))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProfileInterval:
    """Where the deviance stays below the cutoff."""

    low: float
    high: float
    low_closed: bool
    """False if the allowed range ends before the deviance reaches the cutoff; `low` is then the end of the range."""
    high_closed: bool


def coefficient_deviance(fit: CurveFit, index: int) -> Callable[[float], float]:
    """Deviance as a function of the fitter's number of parameter `index`."""
    direction = np.zeros(len(fit.best.theta))
    direction[index] = 1.0
    return _deviance(fit, direction, lambda value: {"held": {index: value}}, fit.best.theta[index])


def curve_deviance(fit: CurveFit, x: float) -> Callable[[float], float]:
    """Deviance as a function of the value of the curve at `x`."""
    at = np.array([x])
    direction = jacobian(fit.form, at, fit.best.theta)[0]
    best = float(fit.form.evaluate(at, fit.best.theta)[0])
    return _deviance(fit, direction, lambda value: {"through": (x, value)}, best)


def _deviance(
    fit: CurveFit, direction: np.ndarray, hold: Callable, at_best: float
) -> Callable[[float], float]:
    q = len(fit.form.nonlinear)
    scale = max(
        fit.noise.sd**2 * fit.noise.inflation(direction), 1e-24
    )  # above 0 also for points without noise
    solved: dict[float, tuple[np.ndarray, float]] = {float(at_best): (fit.best.theta[:q], 0.0)}

    def deviance(value: float) -> float:
        value = float(value)
        if value not in solved:
            # Starting from the nearest solved value keeps the search local, hence fast and on the same branch.
            near, _ = solved[min(solved, key=lambda other: abs(other - value))]
            solution = solve(Problem(form=fit.form, x=fit.x, y=fit.y, **hold(value)), near)
            solved[value] = solution.theta[:q], max((solution.rss - fit.best.rss) / scale, 0.0)
        return solved[value][1]

    return deviance


def find_interval(
    deviance: Callable[[float], float], *, best: float, step: float, low: float, high: float, cutoff: float
) -> ProfileInterval:
    """The values on both sides of `best` at which the deviance reaches `cutoff`.

    Args:
        step: First guess of the half-width.
        low, high: The allowed range; an end that lies at its edge is open.
    """
    lower, low_closed = _find_end(deviance, best, -abs(step), low, cutoff)
    upper, high_closed = _find_end(deviance, best, abs(step), high, cutoff)
    return ProfileInterval(low=lower, high=upper, low_closed=low_closed, high_closed=high_closed)


def _find_end(
    deviance: Callable[[float], float], best: float, step: float, bound: float, cutoff: float
) -> tuple[float, bool]:
    """One end of an interval, and whether it is closed: growing steps bracket it, then Brent's method finds it."""
    inner = best
    for _ in range(30):
        outer = best + step
        beyond = outer <= bound if step < 0 else outer >= bound
        outer = bound if beyond else outer
        if outer == inner:
            return outer, False
        if deviance(outer) > cutoff:

            def excess(value: float) -> float:
                return min(deviance(value), 1e6) - cutoff  # an infeasible value has an infinite deviance

            return find_root(excess, inner, outer, 1e-4 * abs(outer - inner)), True
        if beyond:
            return float(bound), False
        inner, step = outer, step * 1.6
    return float(inner), False
