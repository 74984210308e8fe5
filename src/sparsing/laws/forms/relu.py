"""The law of ReLU models: a falling curve `exp(-c * D**alpha + b) + A0` with the limit `A0`.

Source: Luo et al. 2024 (arXiv 2411.02335), equation for ReLU, there called a convergent decreasing logspace power law.
`exp(b)` and `A0` are linear weights; the fitter searches `alpha` and `ln c`.
"""

from __future__ import annotations

import numpy as np

from sparsing.laws.form import (
    Coefficient,
    Form,
    StraightLine,
    log_or_nan,
    mesh,
    register_form,
    safe_exp,
    safe_log,
)


@register_form
class ReluLaw(Form):
    """Falls from `exp(b) + A0` to `A0`; with `alpha` above 1 the ratio stays high at first.

    As `alpha` goes to 0 while `b` grows, the curve approaches the law `decay`. The upper bound of `b` stops the search
    on that path.
    """

    name = "relu"
    title = "ReLU law"
    equation = "A(D) = exp(-c * D**alpha + b) + A0"
    nonlinear = (
        Coefficient(name="alpha", low=0.01, high=6.0),
        Coefficient(name="c", low=-60.0, high=6.0, to_paper=safe_exp, from_paper=safe_log),
    )
    linear = (
        Coefficient(name="b", low=0.0, high=1e4, to_paper=safe_log, from_paper=safe_exp),
        Coefficient(name="A0", low=0.0, high=1.0),
    )
    limit = key = "A0"
    order = ("alpha", "b", "c", "A0")

    def grid(self, x: np.ndarray) -> np.ndarray:
        nodes = mesh(np.geomspace(0.03, 5.0, 28), np.linspace(-4.0, 4.0, 28))
        # The second axis is ln(c * D_mid**alpha) at the middle of the data: its useful range hardly depends on alpha.
        nodes[:, 1] -= nodes[:, 0] * np.log(x).mean()
        return nodes

    def basis(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        exponent = z[..., 1, None] + z[..., 0, None] * np.log(x)
        # exp(-exp(6.5)) is 1e-289: the clip keeps the column above the smallest float64 and changes no curve.
        falling = np.exp(-np.exp(np.clip(exponent, -700.0, 6.5)))
        return np.stack([falling, np.ones_like(falling)], axis=-1)

    def linearise(self, x: np.ndarray, y: np.ndarray, values: dict[str, float]) -> StraightLine:
        return StraightLine(
            u=x ** values["alpha"],
            v=log_or_nan(y - values["A0"]),
            u_label=f"D^{values['alpha']:.3g}  (D in billion tokens)",
            v_label="ln(A - A0)",
        )
