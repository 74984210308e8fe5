"""Moving-block bootstrap of the residuals (Kuensch 1989): a second opinion on the profile intervals."""

from __future__ import annotations

import numpy as np

from sparsing.laws.noise import Noise
from sparsing.laws.profile import Fitted
from sparsing.laws.solve import Problem, solve


def block_length(num_points: int, rho: float) -> int:
    """Points in a block: the optimum for AR(1) noise (Politis and White 2004), at least the cube root of n."""
    root = num_points ** (1 / 3)
    best = root * (2 * rho / (1 - rho**2)) ** (2 / 3)
    return int(min(max(round(root), round(best), 1), max(num_points // 3, 1)))


def bootstrap(fitted: Fitted, *, num_resamples: int, seed: int) -> np.ndarray:
    """Parameters of refits to the curve plus resampled residuals, shape `(num_resamples, num_parameters)`.

    The residuals are centred and scaled to the size of the noise, which is larger than theirs.
    """
    rng = np.random.default_rng(seed)
    curve = fitted.form.evaluate(fitted.x, fitted.best.theta)
    residual = _scaled(fitted.y - curve, fitted.noise)
    n = len(residual)
    length = 1 if fitted.form.variable == "width_depth" else block_length(n, fitted.noise.rho)
    start = fitted.best.theta[: len(fitted.form.nonlinear)]
    draws = np.empty((num_resamples, len(fitted.best.theta)))
    for row in draws:
        first = rng.integers(0, n - length + 1, size=-(-n // length))
        order = (first[:, None] + np.arange(length)).ravel()[:n]
        problem = Problem(form=fitted.form, x=fitted.x, y=curve + residual[order])
        row[:] = solve(problem, start if len(start) > 1 else None).theta
    return draws


def _scaled(residual: np.ndarray, noise: Noise) -> np.ndarray:
    centred = residual - residual.mean()
    size = float(np.sqrt((centred**2).mean()))
    return centred * (noise.sd / size) if size > 0 else centred
