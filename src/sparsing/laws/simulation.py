"""Series drawn from a known law, to see whether intervals hold what they promise."""

from __future__ import annotations

import numpy as np

from sparsing.laws.form import Form
from sparsing.laws.noise import ar1
from sparsing.laws.points import BILLION, Points, make_points


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
    """The law plus stationary AR(1) noise.

    Args:
        x: billion tokens, or width over depth, shape `(num_points,)`.
        noise_sd: standard deviation of one point, a ratio.
        rho: correlation of neighbouring points, in [0, 1).
    """
    normal = np.random.default_rng(seed).standard_normal(len(x))
    noise = noise_sd * np.linalg.cholesky(ar1(len(x), rho)) @ normal
    unit = BILLION if form.variable == "tokens" else 1.0
    ratio = np.clip(form.curve(x, coefficients) + noise, 0.0, 1.0)
    return make_points(np.asarray(x) * unit, ratio, name=name, variable=form.variable)
