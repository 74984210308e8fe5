"""Simulated series from a known law, for checking that intervals contain the true value as often as they claim."""

from __future__ import annotations

import numpy as np

from sparsing.laws.form import Form
from sparsing.laws.noise import ar1_correlation
from sparsing.laws.points import Points, make_points, unit_of


def simulate(
    form: Form,
    coefficients: dict[str, float],
    x: np.ndarray,
    *,
    noise_sd: float,
    rho: float = 0.0,
    seed: int | np.random.SeedSequence = 0,
    name: str = "simulated",
) -> Points:
    """Points of the law plus stationary AR(1) noise, clipped to [0, 1].

    Args:
        x: Billion tokens, or width over depth, shape `(num_points,)`.
        noise_sd: Standard deviation of one point, a ratio.
        rho: Correlation of neighbouring points, in [0, 1).
    """
    normal = np.random.default_rng(seed).standard_normal(len(x))
    noise = noise_sd * np.linalg.cholesky(ar1_correlation(len(x), rho)) @ normal
    ratio = np.clip(form.curve(x, coefficients) + noise, 0.0, 1.0)
    return make_points(np.asarray(x) * unit_of(form.variable), ratio, name=name, variable=form.variable)
