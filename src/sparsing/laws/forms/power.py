"""A power law without an offset. It falls to 0 or grows without bound, so it has no limit `A0` to identify."""

from __future__ import annotations

import numpy as np

from sparsing.laws.form import Coefficient, Form, StraightLine, log_or_nan, register_form


@register_form
class PowerLaw(Form):
    """A straight line if both axes are logarithmic. The law falls for `alpha > 0` and rises for `alpha < 0`."""

    name = "power"
    title = "plain power law"
    equation = "A(D) = c * D**(-alpha)"
    nonlinear = (Coefficient(name="alpha", low=-3.0, high=3.0),)
    linear = (Coefficient(name="c", low=0.0, high=1e4),)

    def grid(self, x: np.ndarray) -> np.ndarray:
        steps = np.geomspace(1e-3, 3.0, 60)  # up to the bound of `alpha`
        return np.concatenate([-steps[::-1], [0.0], steps])[:, None]

    def basis(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        return np.exp(-z[..., 0, None] * np.log(x))[..., None]

    def linearise(self, x: np.ndarray, y: np.ndarray, values: dict[str, float]) -> StraightLine:
        return StraightLine(
            u=np.log(x), v=log_or_nan(y), u_label="ln D  (D in billion tokens)", v_label="ln A"
        )
