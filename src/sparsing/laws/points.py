"""The points that a law is fitted to: one series of activation ratios along training, or over model shapes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from sparsing.base.results import Result
from sparsing.errors import InputError

BILLION = 1e9


def unit_of(variable: str) -> float:
    """The unit of the laws in units of the points: laws count tokens in billions, and shapes as they are."""
    return BILLION if variable == "tokens" else 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Points(Result):
    """One series, validated on construction.

    Raises:
        InputError: If a value is not finite, a ratio is outside [0, 1], an abscissa is 0 or below, tokens do not rise,
            or all abscissas or all ratios are equal.
    """

    kind = "law_points"

    name: str = "points"
    """Name of the series in tables and figures."""
    variable: str = "tokens"
    """`tokens`: `x` counts training tokens. `width_depth`: `x` is `d_model / n_layers`."""
    x: tuple[float, ...]
    """Training tokens (a count, not billions), or width over depth."""
    ratio: tuple[float, ...]
    """Activation ratio, in [0, 1]."""

    def __post_init__(self) -> None:
        _check(self.name, self.variable, self.x, self.ratio)

    @property
    def scaled(self) -> np.ndarray:
        """`x` in the unit of the laws: billion tokens, or width over depth, shape `(num_points,)`."""
        return np.array(self.x) / unit_of(self.variable)

    @property
    def y(self) -> np.ndarray:
        """Activation ratios, shape `(num_points,)`."""
        return np.array(self.ratio)


def make_points(
    x: Sequence[float] | np.ndarray,
    ratio: Sequence[float] | np.ndarray,
    *,
    name: str = "points",
    variable: str = "tokens",
) -> Points:
    """Points from two sequences of equal length.

    Args:
        x: Training tokens (a count), rising; with `variable="width_depth"`, `d_model / n_layers` in any order.
        ratio: Activation ratio of each point, in [0, 1].
        name: Name of the series.
        variable: `tokens` or `width_depth`.

    Raises:
        InputError: If the lengths differ or `Points` refuses the values.
    """
    pairs = list(zip(map(float, x), map(float, ratio), strict=False))
    if len(x) != len(ratio):
        raise InputError(f"{name}: {len(x)} values of x but {len(ratio)} ratios; give one ratio for each")
    # NaN has no order: unsorted points still reach the check that names the bad point.
    if variable == "width_depth" and all(math.isfinite(a) for a, _ in pairs):
        pairs.sort()
    return Points(
        name=name, variable=variable, x=tuple(a for a, _ in pairs), ratio=tuple(b for _, b in pairs)
    )


def _check(name: str, variable: str, x: tuple[float, ...], ratio: tuple[float, ...]) -> None:
    abscissa = "tokens" if variable == "tokens" else "width over depth"
    if variable not in ("tokens", "width_depth"):
        raise InputError(f"{name}: variable must be tokens or width_depth, got {variable!r}")
    for label, values in ((abscissa, x), ("activation_ratio", ratio)):
        bad = [i for i, value in enumerate(values) if not math.isfinite(value)]
        if bad:
            raise InputError(f"{name}: {label} of point {bad[0] + 1} is {values[bad[0]]}; remove that point")
    outside = [i for i, value in enumerate(ratio) if not 0 <= value <= 1]
    if outside:
        raise InputError(
            f"{name}: activation_ratio of point {outside[0] + 1} is {ratio[outside[0]]:g}, it must be in"
            " [0, 1]; divide percentages by 100, and give the ratio of active neurons, not the sparsity"
        )
    if any(value <= 0 for value in x):
        raise InputError(f"{name}: {abscissa} must be above 0, got {min(x):g}; leave out the untrained model")
    if len(x) > 1 and min(x) == max(x):
        raise InputError(
            f"{name}: all {len(x)} points have the same {abscissa} ({x[0]:g}), but a law needs points that differ"
            " in it; check that each checkpoint's step or token count was recorded"
        )
    if variable == "tokens":
        for i in range(1, len(x)):
            if x[i] <= x[i - 1]:
                raise InputError(
                    f"{name}: tokens must rise, got {x[i]:g} after {x[i - 1]:g} at point {i + 1}; sort the"
                    " points by tokens and keep one point per checkpoint"
                )
    if len(ratio) > 1 and min(ratio) == max(ratio):
        raise InputError(
            f"{name}: all {len(ratio)} ratios are {ratio[0]:g}, so there is no change to fit a law to;"
            " check that the rule's threshold is above the rounding of the model's dtype"
        )
