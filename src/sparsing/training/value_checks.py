"""Checks of the values in a training configuration.

The allowed values of a key stand in the type of its field, as `Literal[...]` or as `Annotated[float, Bounds(...)]`.
`check_fields` compares every field of a configuration table with its type and names the key in the error.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from typing import Annotated, Any

from sparsing.errors import InputError


@dataclasses.dataclass(frozen=True)
class Bounds:
    """An interval of finite numbers. Both ends belong to it unless `low_open` or `high_open` is set."""

    low: float
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False
    hint: str = "correct it in the configuration"
    """What to do about a wrong value; ends the error message."""

    def __contains__(self, value: float) -> bool:
        # isfinite refuses NaN, which would pass a comparison written the other way round
        above_low = value > self.low if self.low_open else value >= self.low
        below_high = value < self.high if self.high_open else value <= self.high
        return math.isfinite(value) and above_low and below_high

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"above {self.low}" if self.low_open else f"{self.low} or more"
        return f"in {'(' if self.low_open else '['}{self.low}, {self.high}{')' if self.high_open else ']'}"


PositiveInt = Annotated[int, Bounds(1)]
NonNegativeInt = Annotated[int, Bounds(0)]
PositiveFloat = Annotated[float, Bounds(0, low_open=True)]
NonNegativeFloat = Annotated[float, Bounds(0)]
Fraction = Annotated[float, Bounds(0, 1, hint="0.1 means a tenth")]
DecayRate = Annotated[float, Bounds(0, 1, high_open=True, hint="0.9 means nine tenths")]
"""Decay rate of a running mean, as AdamW has two of."""


def check_fields(table: Any, name: str) -> None:
    """Compare every field of the dataclass instance `table` with the values that its type allows.

    Args:
        name: Name of the table in the configuration file, which goes before the key in the error.

    Raises:
        InputError: if a number is outside its `Bounds`, or a word is not in its `Literal`.
    """
    for field, hint in typing.get_type_hints(type(table), include_extras=True).items():
        key, value = f"{name}.{field}", getattr(table, field)
        if typing.get_origin(hint) is typing.Literal and value not in typing.get_args(hint):
            raise InputError(
                f"{key} must be one of {', '.join(typing.get_args(hint))}, got {value!r};"
                " correct it in the configuration"
            )
        for bounds in getattr(hint, "__metadata__", ()):
            for number in value if isinstance(value, tuple) else (value,):
                if number not in bounds:
                    raise InputError(f"{key} must be {bounds}, got {number}; {bounds.hint}")


def check_divides(key: str, divisor: int, multiple_key: str, multiple: int) -> None:
    """Check that `multiple` is a multiple of `divisor`; the keys name both in the error.

    Raises:
        InputError: if it is not; the message has the nearest multiple.
    """
    if multiple % divisor:
        nearest = max(1, round(multiple / divisor)) * divisor
        raise InputError(
            f"{multiple_key} = {multiple} must be a multiple of {key} = {divisor}; the nearest is {nearest}"
        )
