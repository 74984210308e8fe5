"""The width-depth law: the ratio rises linearly with `d_model / n_layers` up to a bottleneck, then stays flat.

Source: Luo et al. 2024 (arXiv 2411.02335), section on width and depth. The two parts meet at the bottleneck `r0`:
`A(r) = a + b * min(r, r0)`.
"""

from __future__ import annotations

import numpy as np

from sparsing.laws.form import Coefficient, Form, StraightLine, register_form


@register_form
class Bottleneck(Form):
    """`r` is `d_model / n_layers` at a fixed parameter count, `b >= 0`, and `r0` is the bottleneck."""

    name = "bottleneck"
    title = "linear, then flat"
    equation = "A(r) = a + b * min(r, r0)"
    variable = "width_depth"
    nonlinear = (Coefficient(name="r0", low=1e-6, high=1e9),)
    linear = (Coefficient(name="a", low=-1.0, high=1.0), Coefficient(name="b", low=0.0, high=10.0))
    key = "r0"
    order = ("a", "b", "r0")

    def bounds(self, name: str, x: np.ndarray) -> tuple[float, float]:
        if name != "r0":
            return super().bounds(name, x)
        # Below the second point no data determine the slope; above the last point the law has no flat part.
        return float(np.sort(x)[1]), float(x.max())

    def grid(self, x: np.ndarray) -> np.ndarray:
        low, high = self.bounds("r0", x)
        # The residual sum has a kink where r0 passes a point, so the points themselves are nodes too.
        return np.concatenate([np.linspace(low, high, 300), np.unique(x[x >= low])])[:, None]

    def basis(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        rising = np.minimum(x, z[..., 0, None])
        return np.stack([np.ones_like(rising), rising], axis=-1)

    def linearise(self, x: np.ndarray, y: np.ndarray, values: dict[str, float]) -> StraightLine:
        return StraightLine(u=np.minimum(x, values["r0"]), v=y, u_label="min(d_model / n_layers, r0)")
