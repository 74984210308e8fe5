"""The law of ReLU models: a convergent decreasing power law in the logarithm of the ratio.

Luo et al. 2024 (arXiv 2411.02335), equation for ReLU: `A(D) = exp(-c * D**alpha + b) + A0`.
`exp(b)` and `A0` are linear; `alpha` and `ln c` are searched.
"""

from __future__ import annotations

import numpy as np

from sparsing.laws.form import Coefficient, Form, log_or_nan, mesh, register_form, safe_exp, safe_log


@register_form
class ReluLaw(Form):
    """Decreases from `exp(b) + A0` to `A0`; `alpha` above 1 keeps it high at first.

    As `alpha` goes to 0 with `b` growing it turns into `decay`; the bound of `b` only ends that road.
    """

    name = "relu"
    title = "ReLU law"
    equation = "A(D) = exp(-c * D**alpha + b) + A0"
    nonlinear = (
        Coefficient(name="alpha", low=0.01, high=6.0),
        Coefficient(name="c", low=-60.0, high=6.0, public=safe_exp, internal=safe_log),
    )
    linear = (
        Coefficient(name="b", low=0.0, high=1e4, public=safe_log, internal=safe_exp),
        Coefficient(name="A0", low=0.0, high=1.0),
    )
    limit = key = "A0"
    order = ("alpha", "b", "c", "A0")

    def grid(self, x: np.ndarray) -> np.ndarray:
        nodes = mesh(np.geomspace(0.03, 5.0, 28), np.linspace(-4.0, 4.0, 28))
        # the second axis is ln(c * D_mid**alpha), which hardly depends on alpha where the data lie
        nodes[:, 1] -= nodes[:, 0] * np.log(x).mean()
        return nodes

    def basis(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        exponent = z[..., 1, None] + z[..., 0, None] * np.log(x)
        falling = np.exp(-np.exp(np.clip(exponent, -700.0, 6.5)))
        return np.stack([falling, np.ones_like(falling)], axis=-1)

    def linearised(self, x, y, values):
        u = x ** values["alpha"]
        return (
            u,
            log_or_nan(y - values["A0"]),
            f"D^{values['alpha']:.3g}  (D in billion tokens)",
            "ln(A - A0)",
        )
