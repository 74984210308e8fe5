"""The law of SiLU models: a rising power law with the limit `A0`.

Source: Luo et al. 2024 (arXiv 2411.02335), equation for SiLU: `A(D) = A0 - c * D**(-alpha)` with `c >= 0`.
"""

from __future__ import annotations

import numpy as np

from sparsing.laws.form import Coefficient, Form, StraightLine, log_or_nan, register_form


@register_form
class SiluLaw(Form):
    """Rises to the limit `A0`."""

    name = "silu"
    title = "SiLU law"
    equation = "A(D) = A0 - c * D**(-alpha)"
    nonlinear = (Coefficient(name="alpha", low=0.01, high=8.0),)
    linear = (Coefficient(name="c", low=0.0, high=1e4), Coefficient(name="A0", low=0.0, high=1.0))
    limit = key = "A0"
    order = ("alpha", "c", "A0")
    sign = -1.0
    """Sign of the power term; `decay` is the same law with the other sign."""

    def grid(self, x: np.ndarray) -> np.ndarray:
        return np.geomspace(0.01, 8.0, 160)[:, None]

    def basis(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        power = self.sign * np.exp(-z[..., 0, None] * np.log(x))
        return np.stack([power, np.ones_like(power)], axis=-1)

    def linearise(self, x: np.ndarray, y: np.ndarray, values: dict[str, float]) -> StraightLine:
        return StraightLine(
            u=np.log(x),
            v=log_or_nan(self.sign * (y - values["A0"])),
            u_label="ln D  (D in billion tokens)",
            v_label=f"ln({'A0 - A' if self.sign < 0 else 'A - A0'})",
        )
