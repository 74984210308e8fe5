"""A straight line in the logarithm of the tokens: the simplest law without a limit.

A law with a limit is worth believing only if it fits better than this line.
"""

from __future__ import annotations

import numpy as np

from sparsing.laws.form import Coefficient, Form, register_form


@register_form
class LogLine(Form):
    """Falls or rises by the same amount with each doubling of the tokens."""

    name = "log_line"
    title = "straight line in ln D"
    equation = "A(D) = a + b * ln(D)"
    linear = (Coefficient(name="a"), Coefficient(name="b"))

    def basis(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        columns = np.stack([np.ones_like(x), np.log(x)], axis=-1)
        return np.broadcast_to(columns, (*z.shape[:-1], *columns.shape))
