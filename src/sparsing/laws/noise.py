"""Noise around a law: the scatter of single points and the correlation of neighbouring checkpoints.

`estimate_noise` estimates both from the residuals of a fit. A fitted curve follows the points, so the residuals are
smaller and less correlated than the noise. The estimates correct this bias: the observed moments are compared with the
moments that residuals of a linearised fit have under AR(1) noise.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from sparsing.laws.form import Form
from sparsing.laws.solve import find_minimum, find_root

_RHO_MAX = 0.95
"""Largest correlation that is estimated: above it a few dozen points cannot tell noise from a trend."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noise:
    """AR(1) noise of one series around one form."""

    sd: float
    """Standard deviation of one point around the law, a ratio."""
    rho: float
    """Correlation of neighbouring points, in [0, 0.95]; a negative estimate counts as 0."""
    df: float
    """Degrees of freedom of `sd`, reduced by the coefficients and by the correlation (Satterthwaite)."""
    covariance: np.ndarray
    """Covariance of the free coefficients under this noise, shape `(num_free, num_free)`."""
    independent_covariance: np.ndarray
    """The same covariance for independent points with the same `sd`."""
    free: tuple[int, ...]
    """Indices of the parameters that are not at a bound."""

    def inflation(self, direction: np.ndarray) -> float:
        """Variance of `direction @ theta` under this noise divided by its variance for independent points.

        Args:
            direction: Shape `(num_parameters,)`.
        """
        a = direction[list(self.free)]
        independent = float(a @ self.independent_covariance @ a)
        # The quotient is below 1 only for oscillating directions; a correlation never narrows an interval here.
        return max(float(a @ self.covariance @ a) / independent, 1.0) if independent > 0 else 1.0

    def standard_error(self, direction: np.ndarray) -> float:
        """Standard error of `direction @ theta` under this noise."""
        a = direction[list(self.free)]
        return float(np.sqrt(max(a @ self.covariance @ a, 0.0)))


def jacobian(form: Form, x: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Derivative of the curve by each parameter, central differences, shape `(num_points, num_parameters)`."""
    columns = []
    for index, value in enumerate(theta):
        step = 1e-5 * max(
            abs(value), 1e-2
        )  # near the cube root of float64 precision, best for central differences
        up, down = theta.copy(), theta.copy()
        up[index], down[index] = value + step, value - step
        columns.append((form.evaluate(x, up) - form.evaluate(x, down)) / (2 * step))
    return np.stack(columns, axis=-1)


def estimate_noise(form: Form, x: np.ndarray, y: np.ndarray, theta: np.ndarray) -> Noise:
    """Size and lag-1 correlation of the noise, from the residuals of a fit.

    Points over `width_depth` have no order, so their correlation is 0.
    """
    residual = y - form.evaluate(x, theta)
    free = _free(form, theta)
    design = jacobian(form, x, theta)[:, free]
    # Columns differ by orders of magnitude; scaling them to norm 1 keeps the pseudo-inverse well conditioned.
    scale = np.linalg.norm(design, axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    design = design / scale
    inverse = np.linalg.pinv(design.T @ design, rcond=1e-13)
    annihilator = np.eye(len(x)) - design @ inverse @ design.T  # maps the noise to the residuals of the fit
    rho = 0.0 if form.variable == "width_depth" else _estimate_rho(residual, annihilator)
    correlation = ar1_correlation(len(x), rho)
    residual_map = annihilator @ correlation
    expected = max(float(np.trace(residual_map)), 1e-6)  # residual sum of squares for noise of variance 1
    variance = float(residual @ residual) / expected
    unscaled_inverse = inverse / np.outer(scale, scale)
    middle = (design * scale).T @ correlation @ (design * scale)
    return Noise(
        sd=float(np.sqrt(variance)),
        rho=rho,
        df=max(expected**2 / float((residual_map * residual_map.T).sum()), 1.0),
        covariance=variance * unscaled_inverse @ middle @ unscaled_inverse,
        independent_covariance=variance * unscaled_inverse,
        free=tuple(free),
    )


def ar1_correlation(num_points: int, rho: float) -> np.ndarray:
    """Correlation matrix `rho ** |i - j|`, shape `(num_points, num_points)`."""
    lag = np.abs(np.subtract.outer(np.arange(num_points), np.arange(num_points)))
    return np.power(rho, lag) if rho > 0 else np.eye(num_points)


def effective_points(num_points: int, rho: float) -> float:
    """Number of independent points that determine a mean as precisely as `num_points` correlated points."""
    return num_points**2 / float(ar1_correlation(num_points, rho).sum())


def log_likelihood(residual: np.ndarray, num_dropped: int = 0, correlated: bool = True) -> float:
    """Gaussian AR(1) log likelihood of the residuals, maximised over `sd` and `rho`.

    Args:
        residual: Shape `(num_points,)`.
        num_dropped: Points that are left out of the fit. A dropped point counts as fitted exactly: its residual
            is 0, so it adds to the number of points only.
        correlated: False fixes `rho` at 0.
    """
    n = len(residual) + num_dropped

    def negative(rho: float) -> float:
        innovation = residual[1:] - rho * residual[:-1]
        squares = (1 - rho**2) * residual[0] ** 2 + float(innovation @ innovation)
        return 0.5 * n * (np.log(2 * np.pi * max(squares, 1e-300) / n) + 1) - 0.5 * np.log(1 - rho**2)

    if not correlated:
        return -negative(0.0)
    return -find_minimum(negative, 0.0, _RHO_MAX)[1]


def _free(form: Form, theta: np.ndarray) -> list[int]:
    """Indices of the parameters inside their bounds; a parameter at a bound has no two-sided derivative."""
    free = []
    for index, (parameter, value) in enumerate(zip(form.parameters, theta, strict=True)):
        slack = 1e-6 * max(abs(value), 1e-3)
        if parameter.low + slack < value < parameter.high - slack:
            free.append(index)
    return free or list(range(len(theta)))


def _estimate_rho(residual: np.ndarray, annihilator: np.ndarray) -> float:
    """The AR(1) coefficient under which residuals of the fit have the observed lag-1 correlation."""
    n = len(residual)
    shift = 0.5 * (np.eye(n, k=1) + np.eye(n, k=-1))
    squares = float(residual @ residual)
    if squares <= 0:
        return 0.0
    observed = float(residual @ shift @ residual) / squares
    sandwiched = annihilator @ shift @ annihilator

    def excess(rho: float) -> float:
        correlation = ar1_correlation(n, rho)
        return float((sandwiched * correlation).sum() / (annihilator * correlation).sum()) - observed

    if excess(0.0) >= 0:
        return 0.0
    if excess(_RHO_MAX) <= 0:
        return _RHO_MAX
    return find_root(excess, 0.0, _RHO_MAX, 1e-4)
