"""Coefficients that Luo et al. 2024 (arXiv 2411.02335) publish for their eleven series, for comparison with fits."""

from __future__ import annotations

from sparsing.laws.form import Form
from sparsing.laws.forms import FORMS

RELU = {
    "0.1b_relu": (0.101, -0.0151, 3.20, 0.0614),
    "0.2b_relu": (0.449, -3.05, 0.286, 0.0674),
    "0.4b_relu": (0.683, -3.46, 0.0790, 0.0690),
    "0.8b_relu": (1.01, -3.49, 0.00797, 0.0721),
    "1.2b_relu": (1.33, -3.89, 0.000903, 0.0782),
    "2.4b_relu": (2.11, -3.82, 9.04e-6, 0.0712),
}
"""`alpha, b, c, A0` of `exp(-c * D**alpha + b) + A0`, `D` in billion tokens."""

SILU = {
    "0.1b_silu": (0.479, 0.102, 0.409),
    "0.2b_silu": (0.844, 0.208, 0.390),
    "0.4b_silu": (1.03, 0.420, 0.385),
    "0.8b_silu": (0.995, 0.562, 0.383),
    "1.2b_silu": (0.967, 0.538, 0.382),
}
"""`alpha, c, A0` of `A0 - c * D**(-alpha)`."""


def published_law(name: str) -> tuple[Form, dict[str, float]] | None:
    """The form and coefficients published for a series such as `0.1b_relu`; None for any other name."""
    for form, table in ((FORMS["relu"], RELU), (FORMS["silu"], SILU)):
        if name in table:
            return form, dict(zip(form.order, table[name], strict=True))
    return None
