"""Simulated series that several tests fit: a straight line in ln D, and a ReLU law that flattens."""

from __future__ import annotations

import numpy as np

from sparsing.laws import FORMS, Points, simulate
from sparsing.laws.fitting import fit_curve
from sparsing.laws.profile import CurveFit

X = np.linspace(2.0, 200.0, 40)
LINE = {"a": 0.11, "b": -0.008}
RELU_X = np.linspace(6.0, 270.0, 32)
RELU = {"alpha": 1.0, "b": -3.5, "c": 0.02, "A0": 0.072}


def line_fit(seed: int, rho: float = 0.0) -> CurveFit:
    """The fit of a line to 40 points with noise of 4e-4."""
    points = simulate(FORMS["log_line"], LINE, X, noise_sd=4e-4, rho=rho, seed=seed)
    return fit_curve(FORMS["log_line"], points.scaled, points.y)


def relu_points(seed: int = 1) -> Points:
    """Points of a ReLU law up to where it is flat, with little noise."""
    return simulate(FORMS["relu"], RELU, RELU_X, noise_sd=1.5e-4, seed=seed, name="series")
