"""A logistic curve in the logarithm of the tokens: flat, then a fall or a rise, then flat."""

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
class Sigmoid(Form):
    """Goes from `A0 + c` to `A0` and is half-way at `m` billion tokens.

    With `m` far below the data the curve approaches the law `decay`.
    """

    name = "sigmoid"
    title = "sigmoid in ln D"
    equation = "A(D) = A0 + c / (1 + (D / m)**k)"
    nonlinear = (
        Coefficient(name="k", low=0.05, high=12.0),
        Coefficient(name="m", low=-12.0, high=14.0, to_paper=safe_exp, from_paper=safe_log),
    )
    linear = (Coefficient(name="c", low=-2.0, high=2.0), Coefficient(name="A0", low=0.0, high=1.0))
    limit = key = "A0"
    order = ("k", "m", "c", "A0")

    def grid(self, x: np.ndarray) -> np.ndarray:
        log_x = np.log(x)
        middle = np.linspace(log_x.min() - 4.0, log_x.max() + 3.0, 28)
        return mesh(np.geomspace(0.1, 8.0, 28), middle)

    def basis(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        exponent = z[..., 0, None] * (np.log(x) - z[..., 1, None])
        falling = 1.0 / (1.0 + np.exp(np.clip(exponent, -700.0, 700.0)))  # exp overflows above 709
        return np.stack([falling, np.ones_like(falling)], axis=-1)

    def linearise(self, x: np.ndarray, y: np.ndarray, values: dict[str, float]) -> StraightLine:
        share = (y - values["A0"]) / values["c"]
        odds = log_or_nan(share / np.where(share < 1, 1 - share, np.nan))
        return StraightLine(
            u=np.log(x), v=odds, u_label="ln D  (D in billion tokens)", v_label="ln((A - A0) / (A0 + c - A))"
        )
