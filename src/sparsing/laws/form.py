"""The base class of every law, and the registry of laws; `forms/` holds one file per law.

To the fitter a law is a linear combination of basis curves that depend on a few nonlinear parameters `z`:
`A(x) = offset(x; z) + sum_j beta_j * basis_j(x; z)`. The fitter searches `z` (none, one or two numbers) and solves
`beta` exactly (variable projection, Golub and Pereyra 1973). A law therefore needs bounds for its parameters but no
starting values.
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
    """One coefficient of a law.

    The fitter works with a number that may differ from the paper's coefficient, e.g. with its logarithm. The
    relation between the two is monotone.
    """

    name: str
    low: float = -math.inf
    """Lower bound of the fitter's number."""
    high: float = math.inf
    """Upper bound of the fitter's number."""
    to_paper: Callable[[float], float] = float
    """Converts the fitter's number to the paper's coefficient."""
    from_paper: Callable[[float], float] = float
    """The inverse of `to_paper`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StraightLine:
    """Coordinates in which a law is a straight line; the arrays have shape `(num_points,)`."""

    u: np.ndarray
    v: np.ndarray
    """NaN where a point has no place in these coordinates, e.g. below the limit of a logarithm."""
    u_label: str
    v_label: str = "activation ratio A"


class Form:
    """Base class of the laws. `x` is training tokens in billions, or `d_model / n_layers` (see `variable`)."""

    name: ClassVar[str]
    """Name in the registry and on the command line."""
    title: ClassVar[str]
    """Short name for tables and legends."""
    equation: ClassVar[str]
    """The law in plain characters."""
    variable: ClassVar[str] = "tokens"
    """`tokens` (points in the order of training) or `width_depth` (models without an order)."""
    nonlinear: ClassVar[tuple[Coefficient, ...]] = ()
    linear: ClassVar[tuple[Coefficient, ...]] = ()
    limit: ClassVar[str | None] = None
    """Name of the coefficient that is the ratio after endless training; None if the law has no limit."""
    key: ClassVar[str | None] = None
    """Name of the coefficient that the verdict is about: the limit, or the bottleneck."""
    order: ClassVar[tuple[str, ...]] = ()
    """Names of the coefficients in the paper's order."""

    @property
    def label(self) -> str:
        """The name, by which commands and functions take the law, and the title."""
        return f"{self.name} ({self.title})"

    def grid(self, x: np.ndarray) -> np.ndarray:
        """Nonlinear parameters to try first, shape `(num_nodes, num_nonlinear)`."""
        return np.zeros((1, 0))

    def bounds(self, name: str, x: np.ndarray) -> tuple[float, float]:
        """The range of a fitter's number that points at `x` can determine."""
        parameter = self.parameters[self.names.index(name)]
        return parameter.low, parameter.high

    def basis(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Basis curves, shape `(..., num_points, num_linear)`, for `z` of shape `(..., num_nonlinear)`."""
        raise NotImplementedError

    def offset(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """The part of the curve that no weight multiplies, shape `(..., num_points)`."""
        return np.zeros((*z.shape[:-1], len(x)))

    def linearise(self, x: np.ndarray, y: np.ndarray, values: dict[str, float]) -> StraightLine:
        """The points in coordinates in which the law with these coefficients is a straight line.

        Args:
            x, y: Abscissa and ratios, shape `(num_points,)`.
            values: Coefficients by name.
        """
        return StraightLine(u=np.log(x), v=y, u_label="ln D  (D in billion tokens)")

    @property
    def parameters(self) -> tuple[Coefficient, ...]:
        """Nonlinear coefficients, then linear ones: the order of the vector `theta`."""
        return self.nonlinear + self.linear

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the coefficients in the order of `theta`."""
        return tuple(parameter.name for parameter in self.parameters)

    def to_coefficients(self, theta: Iterable[float]) -> dict[str, float]:
        """The paper's coefficients by name, in the paper's order, from the fitter's vector `theta`."""
        values = {p.name: float(p.to_paper(t)) for p, t in zip(self.parameters, theta, strict=True)}
        return {name: values[name] for name in self.order or self.names}

    def to_theta(self, coefficients: dict[str, float]) -> np.ndarray:
        """The fitter's vector, shape `(num_parameters,)`, from the paper's coefficients by name."""
        return np.array([p.from_paper(coefficients[p.name]) for p in self.parameters], dtype=float)

    def evaluate(self, x: np.ndarray, theta: np.ndarray) -> np.ndarray:
        """`A(x)`, shape `(num_points,)`, from the fitter's vector."""
        q = len(self.nonlinear)
        z, beta = np.asarray(theta[:q], dtype=float), np.asarray(theta[q:], dtype=float)
        return self.offset(x, z) + self.basis(x, z) @ beta

    def curve(self, x: np.ndarray, coefficients: dict[str, float]) -> np.ndarray:
        """`A(x)`, shape `(num_points,)`, from the paper's coefficients by name."""
        return self.evaluate(np.asarray(x, dtype=float), self.to_theta(coefficients))


FORMS: Registry[Form] = Registry("law")
"""Every law by name."""


def register_form(form: type[Form]) -> type[Form]:
    """Class decorator that adds a law to `FORMS` under its `name`."""
    FORMS.register(form.name, form())
    return form


def mesh(*axes: np.ndarray) -> np.ndarray:
    """All combinations of the values of the axes, shape `(num_nodes, num_axes)`."""
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))


def log_or_nan(value: np.ndarray) -> np.ndarray:
    """Natural logarithm; NaN for values of 0 or below."""
    return np.log(np.where(value > 0, value, np.nan))


def safe_exp(value: float) -> float:
    """`exp(value)`, finite: the argument is capped, since `exp(710)` overflows float64."""
    return math.exp(min(value, 700.0))


def safe_log(value: float) -> float:
    """`log(value)`, finite for values of 0 and below."""
    return math.log(max(value, 1e-300))
