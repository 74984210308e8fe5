"""The logarithm that the authors of the Sparsing Law compare with: `A0 + ln(a * D + b)`.

Of its three constants one is redundant (`A0 = ln s` only scales `a` and `b`), and no weight stands before
the logarithm. It is written here as `A(D) = b + ln(1 + r * D)`. For ratios that move by a few points it
is close to a straight line in `D`; `log_line` is the logarithm with a free weight.
"""

from __future__ import annotations

import numpy as np

from sparsing.laws.form import Coefficient, Form, register_form


@register_form
class Logarithm(Form):
    """The published rival; `r` is in 1 / billion tokens."""

    name = "logarithm"
    title = "ln(a D + b)"
    equation = "A(D) = b + ln(1 + r * D)"
    nonlinear = (Coefficient(name="r", low=-1.0, high=100.0),)
    linear = (Coefficient(name="b", low=-50.0, high=1.0),)
    order = ("b", "r")

    def grid(self, x: np.ndarray) -> np.ndarray:
        steps = np.geomspace(1e-7, 0.999, 100)
        return np.concatenate([-steps[::-1], [0.0], steps, np.geomspace(1.1, 1e3, 30)])[:, None] / x.max()

    def basis(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        return np.ones((*z.shape[:-1], len(x), 1))

    def offset(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        return np.log(np.maximum(1.0 + z[..., 0, None] * x, 1e-12))

    def linearised(self, x, y, values):
        return x, np.exp(y), "D  (billion tokens)", "exp(A)"
