"""The description of a chart: its series, bands, marks, axes and caption, without any drawing library.

The modules in `charts/` describe each chart once, from saved results. Two renderers read the description: `static.py`
makes PNG and SVG files with matplotlib, `interactive.py` makes the data that the page draws with Plotly. Both show
the same numbers, intervals, axis labels, legends and captions.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

Numbers = Sequence[float] | Sequence[float | None] | np.ndarray
Scale = Literal["linear", "log"]
Mode = Literal["both", "lines", "points", "open"]
NEUTRAL = 7
"""Index of the grey colour of the palette, for points that belong to no series of the data."""
WIDE_RANGE = 30
"""Values that span more than this ratio are shown on a log axis first."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis. `low`, `high` and the tick options hold for both renderers."""

    label: str
    """Name and unit of the quantity; also the head of the CSV column."""
    scales: Sequence[Scale] = ("linear",)
    """The first scale is drawn; on the page the reader can choose between all of them."""
    names: Sequence[str] = ()
    """Names of the values 0, 1, ... on an axis of categories."""
    whole: bool = False
    """Ticks at whole numbers only, for layers."""
    compact: bool = False
    """Ticks such as `2M` in place of `2000000`."""
    low: float | None = None
    """Lower end of the visible range; None fits the range to the data."""
    high: float | None = None
    floor: float | None = None
    """Smallest value of a log axis; smaller values, 0 included, are drawn at it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """Points with one name. Every sequence has the length of `x`."""

    name: str
    x: Numbers
    y: Numbers
    x_low: Numbers | None = None
    """Lower ends of horizontal interval bars."""
    x_high: Numbers | None = None
    y_low: Numbers | None = None
    """Lower ends of vertical interval bars."""
    y_high: Numbers | None = None
    text: Sequence[str] | None = None
    """Details of each point; the page shows them when the reader points at it."""
    values: Sequence[str] | None = None
    """Text that both renderers write next to each point."""
    mode: Mode = "both"
    """`both` joins the points by lines; `open` points are hollow."""
    colour: int | None = None
    """Index in the palette; by default the index of the series in the chart."""
    depth: float | None = None
    """Position in [0, 1] on the colour scale of the layers, in place of `colour`."""
    dashed: bool = False
    faint: bool = False
    """Thin and pale, for raw data behind a smoothed curve."""
    listed: bool = True
    """False leaves the series out of the legend."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Band:
    """The area between two curves, such as a confidence band."""

    name: str
    x: Numbers
    low: Numbers
    high: Numbers
    colour: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mark:
    """A reference line across the chart, the interval around it, or both."""

    axis: Literal["x", "y"] = "y"
    """Axis on which `at` is read; a mark on `y` is a horizontal line."""
    at: float | None = None
    label: str = ""
    low: float | None = None
    """Lower end of the shaded interval."""
    high: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeatMap:
    """A matrix of coloured cells."""

    values: np.ndarray
    """Shape `(n_y, n_x)`."""
    label: str
    """Quantity that the colours stand for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chart:
    """One pair of axes with everything drawn on them."""

    title: str
    note: str = ""
    """Caption: what the chart shows and how it was measured."""
    x: Axis
    y: Axis
    series: Sequence[Series] = ()
    bands: Sequence[Band] = ()
    marks: Sequence[Mark] = ()
    heat_map: HeatMap | None = None
    highlight: str = ""
    """Label of the page's slider that brings one series to the front, for charts with one line per layer."""
    diagonal: bool = False
    """Draws the line x = y."""
    side_by_side: bool = False
    """Moves the points of each series sideways, so that series at the same category do not hide each other."""

    def x_positions(self, index: int) -> np.ndarray:
        """Where the points of series `index` are drawn on the x axis, shape `(num_points,)`."""
        x = as_floats(self.series[index].x)
        if not self.side_by_side:
            return x
        step = min(0.15, 0.7 / len(self.series))
        return x + step * (index - (len(self.series) - 1) / 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """Charts in one image file under a common title."""

    title: str
    subtitle: str = ""
    """Model, tokens and machine that the data come from."""
    charts: Sequence[Chart]
    columns: int = 1


def as_floats(values: Numbers) -> np.ndarray:
    """The values as float64; None becomes NaN."""
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def is_interval(bounds: Sequence[float | None] | None) -> bool:
    """True if `bounds` are two finite numbers. One window gives no interval: None, or NaN after loading."""
    return bounds is not None and all(value is not None and math.isfinite(value) for value in bounds)


def interval_columns(
    intervals: Sequence[Sequence[float | None] | None] | None,
) -> tuple[list[float | None], list[float | None]] | tuple[None, None]:
    """Lower ends and upper ends as two lists; (None, None) if there is no interval at all."""
    if intervals is None or all(pair is None for pair in intervals):
        return None, None
    pairs = [(None, None) if pair is None else pair for pair in intervals]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def thinned_indices(count: int, most: int) -> np.ndarray:
    """Indices of at most `most` of `count` sorted values; the first and the last are always included."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def scales_for(values: Iterable[float]) -> tuple[Scale, ...]:
    """Both scales, log first if the values are positive and span more than `WIDE_RANGE`; linear alone at 0."""
    known = list(values)
    if min(known) <= 0:
        return ("linear",)
    return ("log", "linear") if max(known) > WIDE_RANGE * min(known) else ("linear", "log")


def padded_range(values: Iterable[float], *, least: float = 0.0) -> tuple[float, float]:
    """A visible range around the finite values: 8% of their span, or `least`, more at both ends."""
    known = [value for value in values if math.isfinite(value)]
    low, high = min(known), max(known)
    padding = max(least, 0.08 * (high - low))
    return low - padding, high + padding
