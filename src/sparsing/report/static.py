"""The renderer for image files: draws charts with matplotlib and writes them as PNG and SVG."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from sparsing.report.chart import Axis, Chart, HeatMap, Mark, Numbers, Picture, Series, as_floats
from sparsing.report.labels import ELLIPSIS, drawable
from sparsing.report.style import (
    FORMATS,
    LIGHT_DEPTHS,
    MARKERS,
    MUTED,
    PALETTE,
    WIDTH,
    depth_bar,
    new_figure,
    save_image,
    styled,
    whiskers,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis as DrawnAxis

WIDE = 10.5
"""Inches; the width of a picture with several columns."""
MANY_POINTS = 100
"""Series with more points get small, translucent markers."""
LONGEST_NAME = 40
"""Characters of a category's name; `interactive.py` cuts names by its own, smaller limit."""
MOST_INSIDE, LEGEND_COLUMNS = 8, 3
"""Most entries of a legend inside the axes, and the columns of a legend below them."""
_COMPACT = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def save_picture(picture: Picture, folder: str | Path, name: str) -> list[Path]:
    """Writes `name.png` and `name.svg` into `folder`; a failed write leaves no partial file.

    Raises:
        InputError: if the folder is not writable or the disk is full.
    """
    figure = draw(picture)
    return [save_image(figure, Path(folder) / f"{name}.{suffix}") for suffix in FORMATS]


def save_pictures(pictures: Mapping[str, Picture], folder: str | Path) -> list[Path]:
    """Writes each picture under its name, see `save_picture`; returns the files."""
    return [path for name, picture in pictures.items() for path in save_picture(picture, folder, name)]


@styled()
def draw(picture: Picture) -> Figure:
    """The picture as a matplotlib figure."""
    charts = picture.charts
    columns = min(picture.columns, len(charts))
    width = WIDTH if columns == 1 else WIDE
    # names take space from the axes, and axes above each other have the same width
    free = width / columns - (2 if any(chart.y.names for chart in charts) else 0)
    headings = [_heading(chart, titled=len(charts) > 1, width=free) for chart in charts]
    panel_heights = [_panel_height(chart, len(lines)) for chart, lines in zip(charts, headings, strict=True)]
    heights = [max(panel_heights[start : start + columns]) for start in range(0, len(charts), columns)]
    title, subtitle = drawable(picture.title), drawable(picture.subtitle)
    figure = new_figure(0.6 + sum(heights), title, subtitle, width=width)
    panels = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights).flatten()
    for axes, chart, lines in zip(panels, charts, headings, strict=False):
        axes.set_title("\n".join(lines))
        _draw_chart(figure, axes, chart)
    for axes in panels[len(charts) :]:
        axes.set_axis_off()
    _add_legends(figure, list(zip(panels, charts, strict=False)))
    return figure


def _heading(chart: Chart, *, titled: bool, width: float) -> list[str]:
    """The lines above the axes: the title where the picture has several charts, and the caption."""
    title = [drawable(chart.title)] if titled else []
    return title + textwrap.wrap(drawable(chart.note), int(14 * width))  # about 14 characters to the inch


def _listed(chart: Chart) -> int:
    return sum(series.listed for series in chart.series)


def _panel_height(chart: Chart, heading_lines: int) -> float:
    """Inches; the axes keep their height where the heading has many lines."""
    heading = 0.14 * max(0, heading_lines - 2)
    if chart.heat_map is not None:
        rows = 0.16 * len(chart.heat_map.values)
        return 1.4 + heading + max(rows if chart.y.names else min(rows, 4.5), 0.8)
    if chart.y.names:
        legend = 0.4 * (_listed(chart) > 1)
        return 1.2 + heading + legend + 0.28 * len(chart.y.names)
    below = 0.2 * math.ceil(_listed(chart) / LEGEND_COLUMNS) if _listed(chart) > MOST_INSIDE else 0.0
    return 2.6 + heading + below


def _draw_chart(figure: Figure, axes: Axes, chart: Chart) -> None:
    # scales come first: intervals and text are placed in the coordinates of the scale
    axes.set_xscale(chart.x.scales[0])
    axes.set_yscale(chart.y.scales[0])
    if chart.heat_map is not None:
        _draw_heat_map(figure, axes, chart.heat_map)
    for band in chart.bands:
        low, high = as_floats(band.low), as_floats(band.high)
        axes.fill_between(
            as_floats(band.x),
            low,
            high,
            color=PALETTE[band.colour],
            alpha=0.25,
            lw=0,
            label=drawable(band.name),
        )
    for index, series in enumerate(chart.series):
        _draw_series(axes, chart, series, index)
    layers = sum(series.depth is not None for series in chart.series)
    for mark in chart.marks:
        # beside the axes, where no point is; a colour bar takes that place
        _draw_mark(axes, mark, outside=layers <= 1)
    if chart.diagonal:
        axes.axline((0, 0), slope=1, color=MUTED, linewidth=0.8, linestyle=":")
    _set_axis(axes, chart.x, axes.xaxis)
    _set_axis(axes, chart.y, axes.yaxis)
    if layers > 1:
        depth_bar(figure, axes, layers)


def _draw_heat_map(figure: Figure, axes: Axes, heat_map: HeatMap) -> None:
    image = axes.imshow(
        heat_map.values, aspect="auto", origin="lower", cmap="viridis", interpolation="nearest"
    )
    axes.grid(visible=False)
    figure.colorbar(image, ax=axes, label=heat_map.label, pad=0.015, aspect=12)


def _draw_series(axes: Axes, chart: Chart, series: Series, index: int) -> None:
    number = index if series.colour is None else series.colour
    colour = PALETTE[number % len(PALETTE)] if series.depth is None else _depth_colour(series.depth)
    x, y = chart.x_positions(index), as_floats(series.y)
    if chart.y.floor is not None and chart.y.scales[0] == "log":
        y = np.maximum(y, chart.y.floor)
    whiskers(axes, x.tolist(), _pairs(series.y_low, series.y_high), colour=colour)
    whiskers(axes, y.tolist(), _pairs(series.x_low, series.x_high), colour=colour, horizontal=True)
    many = len(x) > MANY_POINTS
    thin = series.faint or (series.depth is not None and len(chart.series) > 12)
    axes.plot(
        x,
        y,
        color=colour,
        linestyle="" if series.mode in ("points", "open") else "--" if series.dashed else "-",
        linewidth=0.7 if thin else 1.0 if series.dashed else None,
        # a line of a single point would be invisible without its marker
        marker=MARKERS[number % len(MARKERS)] if series.mode != "lines" or len(x) == 1 else None,
        markersize=3 if many else None,
        markerfacecolor="white" if series.mode == "open" else None,
        alpha=0.5 if series.faint or (many and series.mode == "points") else None,
        label=drawable(series.name) if series.listed else None,
        zorder=3,
    )
    for text, at_x, at_y in zip(series.values or (), x.tolist(), y.tolist(), strict=False):
        axes.annotate(drawable(text), (at_x, at_y), (0, 5), textcoords="offset points", ha="center", size=8)


def _depth_colour(depth: float) -> str:
    low, high = LIGHT_DEPTHS
    return to_hex(matplotlib.colormaps["viridis"](low + (high - low) * depth))


def _pairs(low: Numbers | None, high: Numbers | None) -> list[tuple[float, float]]:
    if low is None or high is None:
        return []
    return list(zip(as_floats(low).tolist(), as_floats(high).tolist(), strict=True))


def _draw_mark(axes: Axes, mark: Mark, *, outside: bool) -> None:
    across = mark.axis == "x"
    if mark.low is not None and mark.high is not None:
        span = axes.axvspan if across else axes.axhspan
        span(mark.low, mark.high, color=MUTED, alpha=0.15, linewidth=0)
    if mark.at is None:
        return
    line = axes.axvline if across else axes.axhline
    line(mark.at, color=MUTED, linewidth=0.9, linestyle=":", zorder=1)
    look = {"color": MUTED, "size": 7.5, "textcoords": "offset points", "annotation_clip": True}
    if across:
        axes.annotate(
            mark.label,
            (mark.at, 1),
            (2, -2),
            xycoords=("data", "axes fraction"),
            rotation=90,
            va="top",
            **look,
        )
        return
    place = (
        {"xytext": (3, 0), "ha": "left", "va": "center"} if outside else {"xytext": (-2, 2), "ha": "right"}
    )
    axes.annotate(mark.label, (1, mark.at), xycoords=("axes fraction", "data"), **place, **look)


def _set_axis(axes: Axes, axis: Axis, drawn: DrawnAxis) -> None:
    """Label, ticks and visible range of one axis."""
    horizontal = drawn is axes.xaxis
    drawn.set_label_text(drawable(axis.label))
    low, high = axis.low, axis.high
    if axis.scales[0] == "log":
        if axis.floor is not None:
            low = axis.floor
        _set_log_ticks(drawn)
    if axis.names:
        _set_names(drawn, axis.names, rotated=horizontal)
        low, high = -0.5, len(axis.names) - 0.5
        if not horizontal:  # the first row on top
            low, high = high, -0.9
            axes.grid(visible=False, axis="y")
    elif axis.whole:
        drawn.set_major_locator(MaxNLocator(nbins=12, integer=True, steps=[1, 2, 5, 10]))
    if axis.compact:
        drawn.set_major_formatter(FuncFormatter(lambda value, _: compact_number(value)))
        drawn.set_minor_formatter(NullFormatter())
    if horizontal:
        axes.set_xlim(low, high)
    else:
        axes.set_ylim(low, high)


def _set_log_ticks(drawn: DrawnAxis) -> None:
    """Ticks at 1, 2 and 5 times the powers of ten; at fewer of these where the axis spans many powers."""
    low, high = drawn.get_view_interval()
    decades = np.log10(high / low)
    steps = (1,) if decades > 4 else (1, 3) if decades > 2 else (1, 2, 5)
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    ticks = [step * 10.0**power for power in powers for step in steps]
    drawn.set_major_locator(FixedLocator(ticks))
    drawn.set_minor_locator(NullLocator())
    drawn.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _set_names(drawn: DrawnAxis, names: Sequence[str], *, rotated: bool) -> None:
    labels = [name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + ELLIPSIS for name in names]
    crowded = rotated and sum(map(len, labels)) + 2 * len(labels) > 70
    size = min(8.0, 330 / len(labels)) if rotated else 8.0
    drawn.set_ticks(range(len(labels)), [drawable(label) for label in labels])
    drawn.set_tick_params(length=2, labelsize=size, labelrotation=90 if crowded else 0)


def compact_number(value: float) -> str:
    """Three significant digits with the unit T, B, M or k: `2.05M`."""
    unit, name = next((pair for pair in _COMPACT if value >= 0.9999 * pair[0]), (1.0, ""))
    return f"{float(f'{value / unit:.3g}'):g}{name}"


def _add_legends(figure: Figure, panels: Sequence[tuple[Axes, Chart]]) -> None:
    """One legend for the figure if its panels list the same series, otherwise one for each panel."""
    entries = [axes.get_legend_handles_labels() for axes, _ in panels]
    handles, labels = entries[0]
    if len(panels) > 1 and len(labels) > 1 and all(other == labels for _, other in entries):
        figure.legend(handles, labels, loc="outside right upper")
        return
    for (axes, chart), (handles, labels) in zip(panels, entries, strict=True):
        if len(labels) > MOST_INSIDE:
            # inside the axes it would cover the lines
            axes.legend(
                handles, labels, loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=LEGEND_COLUMNS
            )
        elif len(labels) > 1 and chart.y.names and len(panels) == 1:
            # rows of names leave no free space inside the axes
            figure.legend(handles, labels, loc="outside lower center", ncols=2)
        elif len(labels) > 1:
            axes.legend(loc="best", frameon=True, framealpha=1, edgecolor="none")  # a mark may run behind it
