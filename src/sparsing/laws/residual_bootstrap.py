"""Moving-block bootstrap of the residuals (Kuensch 1989): a second opinion on the profile intervals."""

from __future__ import annotations

import numpy as np

from sparsing.laws.noise import Noise
from sparsing.laws.profile import CurveFit
from sparsing.laws.solve import Problem, solve


def block_length(num_points: int, rho: float) -> int:
    """Points in a block: the optimum for AR(1) noise (Politis and White 2004), at least the cube root of n."""
    cube_root = num_points ** (1 / 3)
    best = cube_root * (2 * rho / (1 - rho**2)) ** (2 / 3)
    return int(min(max(round(cube_root), round(best), 1), max(num_points // 3, 1)))


def bootstrap_parameters(fit: CurveFit, *, num_resamples: int, seed: int) -> np.ndarray:
    """Parameters of refits to the curve plus resampled residuals, shape `(num_resamples, num_parameters)`.

    Residuals are smaller than the noise, so they are centred and scaled to the size of the noise.
    """
    rng = np.random.default_rng(seed)
    curve = fit.form.evaluate(fit.x, fit.best.theta)
    residual = _scale_to_noise(fit.y - curve, fit.noise)
    n = len(residual)
    # Points over model shapes have no order, so there is no correlation that blocks would have to keep.
    length = 1 if fit.form.variable == "width_depth" else block_length(n, fit.noise.rho)
    start = fit.best.theta[: len(fit.form.nonlinear)]
    draws = np.empty((num_resamples, len(fit.best.theta)))
    for row in draws:
        first = rng.integers(0, n - length + 1, size=-(-n // length))
        order = (first[:, None] + np.arange(length)).ravel()[:n]
        problem = Problem(form=fit.form, x=fit.x, y=curve + residual[order])
        # With one nonlinear parameter the whole grid costs little and cannot miss the optimum.
        row[:] = solve(problem, start if len(start) > 1 else None).theta
    return draws


def _scale_to_noise(residual: np.ndarray, noise: Noise) -> np.ndarray:
    centred = residual - residual.mean()
    size = float(np.sqrt((centred**2).mean()))
    return centred * (noise.sd / size) if size > 0 else centred
