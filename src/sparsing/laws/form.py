"""What a law is to the fitter: a sum of basis curves whose weights are linear, given few nonlinear parameters.

`A(x) = offset(x; z) + sum_j beta_j * basis_j(x; z)`. The fitter searches `z` (none, one or two numbers) and
solves `beta` exactly (variable projection, Golub and Pereyra 1973), so a form needs no starting values, only
the box that its parameters live in. `forms/` holds one file per law.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import ClassVar

import numpy as np

from sparsing.base.registry import Registry


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coefficient:
    """One coefficient as the paper writes it, a monotone function of one number of the fitter."""

    name: str
    low: float = -math.inf
    """Lower bound of the fitter's number."""
    high: float = math.inf
    """Upper bound of the fitter's number."""
    public: Callable[[float], float] = float
    """From the fitter's number to the paper's coefficient."""
    internal: Callable[[float], float] = float
    """The inverse of `public`."""


class Form:
    """Base of the laws. `x` is training tokens in billions, or `d_model / n_layers` (see `variable`)."""

    name: ClassVar[str]
    """Name in the registry and on the command line."""
    title: ClassVar[str]
    """A few words for tables and legends."""
    equation: ClassVar[str]
    """The law in plain characters, with its source."""
    variable: ClassVar[str] = "tokens"
    """`tokens` (points in order of training) or `width_depth` (unordered models)."""
    nonlinear: ClassVar[tuple[Coefficient, ...]] = ()
    linear: ClassVar[tuple[Coefficient, ...]] = ()
    limit: ClassVar[str | None] = None
    """Name of the coefficient that is the ratio after endless training, where there is one."""
    key: ClassVar[str | None] = None
    """Name of the coefficient that a verdict is about: the limit, or the bottleneck."""
    order: ClassVar[tuple[str, ...]] = ()
    """Coefficients in the paper's order."""

    def grid(self, x: np.ndarray) -> np.ndarray:
        """Nonlinear parameters to try first, shape `(num_nodes, num_nonlinear)`."""
        return np.zeros((1, 0))

    def bounds(self, name: str, x: np.ndarray) -> tuple[float, float]:
        """Range of the fitter's number within which points at `x` can fix a coefficient."""
        parameter = self.parameters[self.names.index(name)]
        return parameter.low, parameter.high

    def basis(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Basis curves, shape `(..., num_points, num_linear)`, for `z` of shape `(..., num_nonlinear)`."""
        raise NotImplementedError

    def offset(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """The part without a weight, shape `(..., num_points)`."""
        return np.zeros((*z.shape[:-1], len(x)))

    def linearised(
        self, x: np.ndarray, y: np.ndarray, values: dict[str, float]
    ) -> tuple[np.ndarray, np.ndarray, str, str]:
        """Coordinates in which the law is a straight line, and their labels; points that have none are NaN.

        Args:
            x, y: abscissa and ratios, shape `(num_points,)`.
            values: coefficients by name.
        """
        return np.log(x), y, "ln D  (D in billion tokens)", "activation ratio A"

    @property
    def parameters(self) -> tuple[Coefficient, ...]:
        """The nonlinear ones, then the linear ones: the order of the fitter's vector."""
        return self.nonlinear + self.linear

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)

    def public(self, theta: Iterable[float]) -> dict[str, float]:
        """Coefficients by name in the paper's order, from the fitter's vector."""
        values = {p.name: float(p.public(t)) for p, t in zip(self.parameters, theta, strict=True)}
        return {name: values[name] for name in self.order or self.names}

    def internal(self, coefficients: dict[str, float]) -> np.ndarray:
        """The fitter's vector, from the coefficients by name."""
        return np.array([p.internal(coefficients[p.name]) for p in self.parameters], dtype=float)

    def evaluate(self, x: np.ndarray, theta: np.ndarray) -> np.ndarray:
        """`A(x)`, shape `(num_points,)`, from the fitter's vector."""
        q = len(self.nonlinear)
        z, beta = np.asarray(theta[:q], dtype=float), np.asarray(theta[q:], dtype=float)
        return self.offset(x, z) + self.basis(x, z) @ beta

    def curve(self, x: np.ndarray, coefficients: dict[str, float]) -> np.ndarray:
        """`A(x)`, shape `(num_points,)`, from the coefficients by name."""
        return self.evaluate(np.asarray(x, dtype=float), self.internal(coefficients))


FORMS: Registry[Form] = Registry("law")


def register_form(form: type[Form]) -> type[Form]:
    """Announce a law under its `name`."""
    FORMS.register(form.name, form())
    return form


def mesh(*axes: np.ndarray) -> np.ndarray:
    """All combinations of the axes, shape `(num_nodes, num_axes)`."""
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))


def log_or_nan(value: np.ndarray) -> np.ndarray:
    """Natural logarithm, NaN where there is none."""
    return np.log(np.where(value > 0, value, np.nan))


def safe_exp(value: float) -> float:
    return math.exp(min(value, 700.0))


def safe_log(value: float) -> float:
    return math.log(max(value, 1e-300))
