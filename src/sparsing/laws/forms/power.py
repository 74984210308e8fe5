"""A plain power law: it goes to 0, or grows without end, and has no other limit."""

from __future__ import annotations

import numpy as np

from sparsing.laws.form import Coefficient, Form, log_or_nan, register_form


@register_form
class PowerLaw(Form):
    """A straight line where both axes are logarithmic; `alpha` below 0 rises."""

    name = "power"
    title = "plain power law"
    equation = "A(D) = c * D**(-alpha)"
    nonlinear = (Coefficient(name="alpha", low=-3.0, high=3.0),)
    linear = (Coefficient(name="c", low=0.0, high=1e4),)

    def grid(self, x: np.ndarray) -> np.ndarray:
        steps = np.geomspace(1e-3, 3.0, 60)
        return np.concatenate([-steps[::-1], [0.0], steps])[:, None]

    def basis(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        return np.exp(-z[..., 0, None] * np.log(x))[..., None]

    def linearised(self, x, y, values):
        return np.log(x), log_or_nan(y), "ln D  (D in billion tokens)", "ln A"
