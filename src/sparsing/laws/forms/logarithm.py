"""The logarithm that the authors of the Sparsing Law compare their laws with: `A0 + ln(a * D + b)`.

One of its three constants is redundant, since `A0 = ln s` only scales `a` and `b`. It is written here as
`A(D) = b + ln(1 + r * D)`. No weight multiplies the logarithm, so for ratios that change by a few percentage points the
curve is close to a straight line in `D`. The law `log_line` has a logarithm with a free weight.
"""

from __future__ import annotations

import numpy as np

from sparsing.laws.form import Coefficient, Form, StraightLine, register_form


@register_form
class Logarithm(Form):
    """The published rival of the power laws; `r` has the unit 1 / billion tokens."""

    name = "logarithm"
    title = "ln(a D + b)"
    equation = "A(D) = b + ln(1 + r * D)"
    nonlinear = (Coefficient(name="r", low=-1.0, high=100.0),)
    linear = (Coefficient(name="b", low=-50.0, high=1.0),)
    order = ("b", "r")

    def grid(self, x: np.ndarray) -> np.ndarray:
        steps = np.geomspace(1e-7, 0.999, 100)
        # In units of 1 / x.max(), r above -1 keeps the argument of the logarithm positive at every point.
        return np.concatenate([-steps[::-1], [0.0], steps, np.geomspace(1.1, 1e3, 30)])[:, None] / x.max()

    def basis(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        return np.ones((*z.shape[:-1], len(x), 1))

    def offset(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        # Local refinement may step past the pole; the floor keeps the residual finite and very large there.
        return np.log(np.maximum(1.0 + z[..., 0, None] * x, 1e-12))

    def linearise(self, x: np.ndarray, y: np.ndarray, values: dict[str, float]) -> StraightLine:
        return StraightLine(u=x, v=np.exp(y), u_label="D  (billion tokens)", v_label="exp(A)")
