"""How large the scatter around a law is, and how far neighbouring checkpoints scatter together.

Residuals of a fit are less correlated, and smaller, than the noise itself: the curve has bent towards them.
Both moments are therefore compared with what a linearised fit makes of AR(1) noise, which corrects the bias.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from sparsing.laws.form import Form
from sparsing.laws.solve import minimum, root

_RHO_MAX = 0.95


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noise:
    """AR(1) noise of one series around one form."""

    sd: float
    """Standard deviation of one point around the law, a ratio."""
    rho: float
    """Correlation of neighbouring points, in [0, 0.95]; a negative estimate counts as 0."""
    df: float
    """Degrees of freedom of `sd`, after the coefficients and the correlation (Satterthwaite)."""
    covariance: np.ndarray
    """Of the free coefficients under this noise, shape `(num_free, num_free)`."""
    naive: np.ndarray
    """The same if the points were independent with the same `sd`."""
    free: tuple[int, ...]
    """Indices of the parameters that are not at a bound."""

    def inflation(self, direction: np.ndarray) -> float:
        """Variance of `direction @ theta` under this noise, over its variance for independent points.

        Args:
            direction: shape `(num_parameters,)`.
        """
        a = direction[list(self.free)]
        plain = float(a @ self.naive @ a)
        # below 1 only for wiggly directions; a correlation never narrows an interval here
        return max(float(a @ self.covariance @ a) / plain, 1.0) if plain > 0 else 1.0

    def standard_error(self, direction: np.ndarray) -> float:
        a = direction[list(self.free)]
        return float(np.sqrt(max(a @ self.covariance @ a, 0.0)))


def jacobian(form: Form, x: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Derivative of the curve by each parameter, central differences, shape `(num_points, num_parameters)`."""
    columns = []
    for index, value in enumerate(theta):
        step = 1e-5 * max(abs(value), 1e-2)
        up, down = theta.copy(), theta.copy()
        up[index], down[index] = value + step, value - step
        columns.append((form.evaluate(x, up) - form.evaluate(x, down)) / (2 * step))
    return np.stack(columns, axis=-1)


def estimate_noise(form: Form, x: np.ndarray, y: np.ndarray, theta: np.ndarray) -> Noise:
    """Size and lag-1 correlation of the noise, from the residuals of a fit.

    For a form in `width_depth` the points have no order and the correlation is 0.
    """
    residual = y - form.evaluate(x, theta)
    free = _free(form, theta)
    design = jacobian(form, x, theta)[:, free]
    scale = np.linalg.norm(design, axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    design = design / scale
    inverse = np.linalg.pinv(design.T @ design, rcond=1e-13)
    annihilator = np.eye(len(x)) - design @ inverse @ design.T
    rho = 0.0 if form.variable == "width_depth" else _rho(residual, annihilator)
    correlation = ar1(len(x), rho)
    seen = annihilator @ correlation
    kept = max(float(np.trace(seen)), 1e-6)
    variance = float(residual @ residual) / kept
    back = inverse / np.outer(scale, scale)
    middle = (design * scale).T @ correlation @ (design * scale)
    return Noise(
        sd=float(np.sqrt(variance)),
        rho=rho,
        df=max(kept**2 / float((seen * seen.T).sum()), 1.0),
        covariance=variance * back @ middle @ back,
        naive=variance * back,
        free=tuple(free),
    )


def ar1(num_points: int, rho: float) -> np.ndarray:
    """Correlation matrix `rho ** |i - j|`, shape `(num_points, num_points)`."""
    lag = np.abs(np.subtract.outer(np.arange(num_points), np.arange(num_points)))
    return np.power(rho, lag) if rho > 0 else np.eye(num_points)


def effective_points(num_points: int, rho: float) -> float:
    """Independent points that fix a mean as well as these do."""
    return num_points**2 / float(ar1(num_points, rho).sum())


def log_likelihood(residual: np.ndarray, num_dropped: int = 0, correlated: bool = True) -> float:
    """Gaussian AR(1) log likelihood of the residuals, `sd` and `rho` at their best.

    Each of `num_dropped` points has a coefficient of its own and so no residual: it counts as a point.
    """
    n = len(residual) + num_dropped

    def negative(rho: float) -> float:
        innovation = residual[1:] - rho * residual[:-1]
        squares = (1 - rho**2) * residual[0] ** 2 + float(innovation @ innovation)
        return 0.5 * n * (np.log(2 * np.pi * max(squares, 1e-300) / n) + 1) - 0.5 * np.log(1 - rho**2)

    if not correlated:
        return -negative(0.0)
    return -float(minimum(negative, 0.0, _RHO_MAX).fun)


def _free(form: Form, theta: np.ndarray) -> list[int]:
    """Parameters that are inside their box; one at a bound has no two-sided derivative."""
    free = []
    for index, (parameter, value) in enumerate(zip(form.parameters, theta, strict=True)):
        slack = 1e-6 * max(abs(value), 1e-3)
        if parameter.low + slack < value < parameter.high - slack:
            free.append(index)
    return free or list(range(len(theta)))


def _rho(residual: np.ndarray, annihilator: np.ndarray) -> float:
    """The AR(1) coefficient whose fitted residuals would have the lag-1 correlation that is seen."""
    n = len(residual)
    shift = 0.5 * (np.eye(n, k=1) + np.eye(n, k=-1))
    squares = float(residual @ residual)
    if squares <= 0:
        return 0.0
    seen = float(residual @ shift @ residual) / squares
    sandwiched = annihilator @ shift @ annihilator

    def excess(rho: float) -> float:
        correlation = ar1(n, rho)
        return float((sandwiched * correlation).sum() / (annihilator * correlation).sum()) - seen

    if excess(0.0) >= 0:
        return 0.0
    if excess(_RHO_MAX) <= 0:
        return _RHO_MAX
    return root(excess, 0.0, _RHO_MAX, 1e-4)
