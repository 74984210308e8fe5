"""What a chart of the report is made of: named series of numbers, without a word on how they are drawn.

The page draws them (`assets/charts.js`) and gives the same numbers as CSV. All figures of a page become one
JSON document, so nothing here may depend on the plotting library.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

Numbers = Sequence[float] | Sequence[float | None] | np.ndarray
DIGITS = 6
"""Significant digits kept: more than can be seen, few enough for a small page."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """Points of one name; every list is as long as `x`."""

    name: str
    x: Numbers
    y: Numbers
    x_low: Numbers | None = None
    """Ends of an interval, drawn as bars."""
    x_high: Numbers | None = None
    y_low: Numbers | None = None
    y_high: Numbers | None = None
    text: Sequence[str] | None = None
    """Said of each point when it is pointed at."""
    mode: Literal["both", "lines", "points", "open"] = "both"
    """`open` points are hollow."""
    colour: int | None = None
    """Number in the palette; by default that of the series in the chart."""
    depth: float | None = None
    """Place in [0, 1] on a scale of colours, for layers; in place of `colour`."""
    dashed: bool = False
    listed: bool = True
    """False leaves it out of the legend."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mark:
    """A reference line across the chart."""

    at: float
    axis: Literal["x", "y"] = "y"
    label: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chart:
    """One picture with its data."""

    title: str
    note: str = ""
    """A sentence on what is to be seen and how it was measured."""
    x: str
    """Name of the x axis with its unit; also the head of the CSV column."""
    y: str
    series: Sequence[Series]
    marks: Sequence[Mark] = ()
    x_scales: Sequence[Literal["linear", "log"]] = ("linear",)
    """Scales the reader can choose from; the first one is shown."""
    y_scales: Sequence[Literal["linear", "log"]] = ("linear",)
    y_room: float = 0.0
    """Room above and below on the y axis, at least this share of the largest value."""
    highlight: str = ""
    """Name of a slider that brings one series to the front, for charts with a line per layer."""
    square: bool = False
    """Both axes alike, with the diagonal drawn."""
    x_names: Sequence[str] = ()
    """Names of x = 0, 1, ... where x is a number of something that has a name."""
    side_by_side: bool = False
    """Draw series beside each other around a name on the x axis: points of a few series would hide each other."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; what is not finite becomes None, what is a default is left out."""
        return _small(self)


def thinned(count: int, most: int) -> np.ndarray:
    """Indices of at most `most` of `count` sorted values, both ends kept."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def columns(
    intervals: Sequence[Sequence[float | None] | None] | None,
) -> tuple[list[float | None], list[float | None]] | tuple[None, None]:
    """Low and high ends as two lists; (None, None) where there are no intervals."""
    if intervals is None or all(pair is None for pair in intervals):
        return None, None
    pairs = [(None, None) if pair is None else pair for pair in intervals]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def _small(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        items = ((field.name, getattr(value, field.name), field.default) for field in fields)
        return {name: _small(item) for name, item, default in items if not _is(item, default)}
    if isinstance(value, (list, tuple, range, np.ndarray)):
        return [_small(item) for item in value]
    if isinstance(value, (bool, str)) or value is None:
        return value
    return rounded(value)


def _is(value: Any, default: Any) -> bool:
    return default is not dataclasses.MISSING and type(value) is type(default) and bool(value == default)


def rounded(value: float) -> float | int | None:
    """The number to `DIGITS` significant digits; None for NaN and infinity."""
    if isinstance(value, (int, np.integer)):
        return int(value)
    value = float(value)
    if not math.isfinite(value):
        return None
    return float(f"{value:.{DIGITS}g}")
