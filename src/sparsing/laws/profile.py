"""Profile likelihood: how much worse the best curve gets when one coefficient, or one value, is held.

The deviance is `(rss(held) - rss(best)) / (sd**2 * inflation)`, the inflation being that of the linearised
coefficient under AR(1) noise (Kent 1982: adjusted likelihood ratio); it is compared with `F(1, df)`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy.stats import f as f_distribution

from sparsing.laws.form import Form
from sparsing.laws.noise import Noise, jacobian
from sparsing.laws.solve import Problem, Solution, root, solve


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fitted:
    """The points that were kept, the form, its best parameters and the noise around it."""

    form: Form
    x: np.ndarray
    """Billion tokens, or width over depth, shape `(num_points,)`."""
    y: np.ndarray
    """Activation ratios, shape `(num_points,)`."""
    best: Solution
    noise: Noise

    def cutoff(self, level: float) -> float:
        """Deviance at the ends of an interval of this confidence level."""
        return float(f_distribution.ppf(level, 1, self.noise.df))


def deviance_of(fitted: Fitted, index: int) -> Callable[[float], float]:
    """Deviance as a function of parameter `index`; each call starts where the nearest earlier one ended."""
    direction = np.zeros(len(fitted.best.theta))
    direction[index] = 1.0
    return _deviance(fitted, direction, lambda value: {"held": {index: value}}, fitted.best.theta[index])


def deviance_through(fitted: Fitted, x: float) -> Callable[[float], float]:
    """Deviance as a function of the curve's value at `x`."""
    at = np.array([x])
    direction = jacobian(fitted.form, at, fitted.best.theta)[0]
    here = float(fitted.form.evaluate(at, fitted.best.theta)[0])
    return _deviance(fitted, direction, lambda value: {"through": (x, value)}, here)


def _deviance(
    fitted: Fitted, direction: np.ndarray, hold: Callable, at_best: float
) -> Callable[[float], float]:
    q = len(fitted.form.nonlinear)
    scale = max(fitted.noise.sd**2 * fitted.noise.inflation(direction), 1e-24)  # above 0 for exact points
    seen: dict[float, tuple[np.ndarray, float]] = {float(at_best): (fitted.best.theta[:q], 0.0)}

    def deviance(value: float) -> float:
        value = float(value)
        if value not in seen:
            near, _ = seen[min(seen, key=lambda other: abs(other - value))]
            found = solve(Problem(form=fitted.form, x=fitted.x, y=fitted.y, **hold(value)), near)
            seen[value] = found.theta[:q], max((found.rss - fitted.best.rss) / scale, 0.0)
        return seen[value][1]

    return deviance


def interval(
    deviance: Callable[[float], float], *, best: float, step: float, low: float, high: float, cutoff: float
) -> tuple[float, float, bool, bool]:
    """Where the deviance reaches `cutoff` on either side of `best`.

    Args:
        step: a first guess of the half-width.
        low, high: the range of the value; an end that lies there is open.

    Returns:
        lower end, upper end, and whether each of them is closed by the data.
    """
    lower, lower_closed = _end(deviance, best, -abs(step), low, cutoff)
    upper, upper_closed = _end(deviance, best, abs(step), high, cutoff)
    return lower, upper, lower_closed, upper_closed


def _end(deviance, best: float, step: float, bound: float, cutoff: float) -> tuple[float, bool]:
    inner = best
    for _ in range(30):
        outer = best + step
        beyond = outer <= bound if step < 0 else outer >= bound
        outer = bound if beyond else outer
        if outer == inner:
            return outer, False
        if deviance(outer) > cutoff:

            def excess(value: float) -> float:
                return min(deviance(value), 1e6) - cutoff

            return root(excess, inner, outer, 1e-4 * abs(outer - inner)), True
        if beyond:
            return float(bound), False
        inner, step = outer, step * 1.6
    return float(inner), False
