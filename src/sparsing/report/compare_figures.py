"""Pictures of several measurements: rules against each other, and checkpoints along training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sparsing.errors import InputError
from sparsing.report import style
from sparsing.report.labels import drawable
from sparsing.report.style import INK, MARKERS, MUTED, PALETTE, is_interval, new_figure, styled, whiskers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sparsing.measuring.measurement import Measurement

Interval = tuple[float, float]
PPL_LINES = (1.01, 1.05, 1.10)
"""Perplexity ratios of PPL-1%, 5% and 10%."""


class Point(Protocol):
    """What is drawn of a rule at a level: a `Measurement`, or a point of a comparison."""

    @property
    def rule(self) -> str: ...
    @property
    def activation_ratio(self) -> float: ...
    @property
    def activation_ratio_interval(self) -> Interval | None: ...
    @property
    def ppl_ratio(self) -> float: ...
    @property
    def ppl_ratio_interval(self) -> Interval | None: ...


class Kept(NamedTuple):
    """What a rule keeps at a perplexity ratio."""

    ratio: float
    interval: Interval | None
    measured: bool
    """False when it lies between two measured points."""


@styled()
def ppl_against_ratio(points: Sequence[Point], *, subtitle: str = "", at: float = 1.01) -> Figure:
    """Perplexity ratio against activation ratio, a line per rule, and what each rule keeps at one cost.

    Args:
        points: Of one model on one corpus, any order; lines join the points of a rule.
        subtitle: What was compared: model and tokens.
        at: The perplexity ratio of the second panel; rules whose points do not enclose it are left out there.

    Raises:
        InputError: no points.
    """
    if not points:
        raise InputError("nothing to compare; give the measurements of at least one rule")
    rules = list(dict.fromkeys(point.rule for point in points))
    lines = {rule: _sorted(points, rule) for rule in rules}
    kept = {rule: found for rule in rules if (found := kept_at(lines[rule], at))}
    low = 0.62 + 0.24 * len(kept) if kept else 0
    figure = new_figure(3.9 + low, "Perplexity against activation ratio", drawable(subtitle))
    panels = figure.subplots(
        2 if kept else 1, squeeze=False, sharex=True, height_ratios=[3.5, low] if kept else [1]
    )[:, 0]
    _draw_frontiers(panels[0], lines)
    if kept:
        _draw_kept(panels[1], kept, rules, at)
    panels[-1].set_xlabel("activation ratio")
    return figure


def kept_at(points: Sequence[Point], ppl_ratio: float) -> Kept | None:
    """What is kept at this perplexity ratio: measured within 1e-4 of it, or linear between two points.

    The interval is that of the activation ratio, interpolated likewise. None where no points enclose it.
    """
    near = min(points, key=lambda point: abs(point.ppl_ratio - ppl_ratio))
    if abs(near.ppl_ratio - ppl_ratio) <= 1e-4:
        return Kept(near.activation_ratio, near.activation_ratio_interval, True)
    ordered = sorted(points, key=lambda point: point.ppl_ratio)
    costs = [point.ppl_ratio for point in ordered]
    if not costs[0] < ppl_ratio < costs[-1]:
        return None

    def between(values: Sequence[float]) -> float:
        return float(np.interp(ppl_ratio, costs, values))

    bounds = [point.activation_ratio_interval for point in ordered]
    known = [pair for pair in bounds if pair is not None and is_interval(pair)]
    interval = None
    if len(known) == len(bounds):
        interval = (between([pair[0] for pair in known]), between([pair[1] for pair in known]))
    return Kept(between([point.activation_ratio for point in ordered]), interval, False)


@styled()
def along_training(series: Mapping[str, Sequence[Measurement]], *, subtitle: str = "") -> Figure:
    """Activation ratio and dense loss against training tokens, a line per model.

    Args:
        series: For each model the measurements of its checkpoints, any order.

    Raises:
        InputError: no measurements, or one whose checkpoint does not say how many tokens it has seen.
    """
    runs = {name: _by_tokens(name, found) for name, found in series.items()}
    if not runs:
        raise InputError("no checkpoints to draw; give the measurements of at least one model")
    names = {measurement.name for run in runs.values() for measurement in run}
    what = f" at {names.pop()}" if len(names) == 1 else ""
    figure = new_figure(4.6, f"Activation ratio{what} along training", drawable(subtitle))
    upper, lower = figure.subplots(2, sharex=True, height_ratios=[1.5, 1])
    for index, run in enumerate(runs.values()):
        tokens = [float(measurement.provenance.train_tokens or 0) for measurement in run]
        look = {"color": PALETTE[index % len(PALETTE)], "marker": MARKERS[index % len(MARKERS)]}
        bars = [measurement.activation_ratio_interval for measurement in run]
        whiskers(upper, tokens, bars, colour=look["color"])
        upper.plot(tokens, [measurement.activation_ratio for measurement in run], **look)
        lower.plot(tokens, [math.log(measurement.ppl_dense) for measurement in run], **look)
    _name_lines(upper, list(runs))
    upper.set_ylabel("activation ratio")
    upper.set_title("bars: 95% intervals over windows")
    lower.set_ylabel("dense loss,\nnats per token")
    _token_axis(lower)
    return figure


def _sorted(points: Sequence[Point], rule: str) -> list[Point]:
    return sorted((point for point in points if point.rule == rule), key=lambda point: point.activation_ratio)


def _draw_frontiers(axes: Axes, lines: Mapping[str, Sequence[Point]]) -> None:
    wide = max(point.ppl_ratio for line in lines.values() for point in line) > 1.5
    for cost in PPL_LINES[-1:] if wide else PPL_LINES:  # on a wide scale the three fall together
        axes.axhline(cost, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
        name = f"PPL-{(cost - 1) * 100:.0f}%"
        look = {"color": MUTED, "ha": "right", "size": 7.5}
        axes.annotate(name, (1, cost), (-2, 2), ("axes fraction", "data"), "offset points", **look)
    for index, line in enumerate(lines.values()):
        colour, marker = PALETTE[index % len(PALETTE)], MARKERS[index % len(MARKERS)]
        x, y = [p.activation_ratio for p in line], [p.ppl_ratio for p in line]
        spans = [p.activation_ratio_interval for p in line]
        whiskers(axes, y, spans, colour=colour, horizontal=True, width=1)
        whiskers(axes, x, [p.ppl_ratio_interval for p in line], colour=colour, width=1)
        axes.plot(x, y, color=colour, marker=marker)
    axes.plot(1, 1, "*", color=INK, markersize=9, clip_on=False)
    axes.annotate("dense", (1, 1), (-7, -10), textcoords="offset points", ha="right")
    if wide:
        axes.set_yscale("log")
        style.plain_numbers(axes.yaxis)
    axes.set_xlim(right=1.0)
    axes.set_ylabel("perplexity ratio, sparse / dense")
    _name_frontiers(axes, lines)


def _name_frontiers(axes: Axes, lines: Mapping[str, Sequence[Point]]) -> None:
    """The name of each rule over its sparsest point; those that would touch go up a row."""
    left, right = axes.get_xlim()
    taken: list[float] = []  # right end of the last name in each row, in points
    for index, (rule, line) in sorted(
        enumerate(lines.items()), key=lambda item: item[1][1][0].activation_ratio
    ):
        at = (line[0].activation_ratio - left) / (right - left) * 72 * 5.7
        begin, end = at - 3 * len(rule) - 4, at + 3 * len(rule) + 4
        row = next((row for row, edge in enumerate(taken) if edge < begin), len(taken))
        taken[row : row + 1] = [end]
        axes.annotate(
            drawable(rule),
            (line[0].activation_ratio, _top(line[0])),
            (0, 6 + 12 * row),
            textcoords="offset points",
            ha="center",
            color=PALETTE[index % len(PALETTE)],
            fontweight="bold",
        )
    axes.margins(y=0.06 + 0.06 * len(taken))


def _top(point: Point) -> float:
    """Upper end of what is drawn of a point."""
    bounds = point.ppl_ratio_interval
    return bounds[1] if bounds is not None and is_interval(bounds) else point.ppl_ratio


def _draw_kept(axes: Axes, kept: Mapping[str, Kept], rules: Sequence[str], at: float) -> None:
    rows = sorted(kept, key=lambda rule: kept[rule].ratio)
    for row, rule in enumerate(rows):
        found, index = kept[rule], rules.index(rule)
        colour = PALETTE[index % len(PALETTE)]
        whiskers(axes, [row], [found.interval], colour=colour, horizontal=True)
        fill = colour if found.measured else "white"
        axes.plot(found.ratio, row, MARKERS[index % len(MARKERS)], color=colour, mfc=fill)
        axes.annotate(
            f"{found.ratio:.3f}", (found.ratio, row), (0, 5), textcoords="offset points", ha="center", size=8
        )
    axes.set_yticks(range(len(rows)), [drawable(rule) for rule in rows])
    axes.set_ylim(len(rows) - 0.5, -0.8)
    axes.grid(visible=False, axis="y")
    hollow = "; hollow: interpolated" if any(not k.measured for k in kept.values()) else ""
    missing = ", ".join(drawable(rule) for rule in rules if rule not in kept)
    missing = f"; no levels around it: {missing}" if missing else ""
    axes.set_title(f"kept at PPL-{round((at - 1) * 100, 4):g}%, 95% intervals{hollow}{missing}")


def _by_tokens(name: str, measurements: Sequence[Measurement]) -> list[Measurement]:
    for measurement in measurements:
        if measurement.provenance.train_tokens is None:
            raise InputError(
                f"a measurement of {name!r} ({measurement.provenance.model!r}) does not say how many tokens its"
                " checkpoint was trained on; give checkpoints with a training_state.json"
            )
    return sorted(measurements, key=lambda measurement: measurement.provenance.train_tokens or 0)


def _name_lines(axes: Axes, names: Sequence[str]) -> None:
    """Names at the right ends of the lines, moved apart where they would touch."""
    ends = [(float(np.asarray(line.get_ydata())[-1]), index) for index, line in enumerate(axes.lines)]
    low, high = axes.get_ylim()
    step = 0.09 * (high - low)
    places: list[float] = []
    for value, index in sorted(ends):
        place = max(value, places[-1] + step) if places else value
        places.append(place)
        axes.annotate(
            drawable(names[index])[:28],
            (1.015, place),
            xycoords=("axes fraction", "data"),
            va="center",
            color=axes.lines[index].get_color(),
            annotation_clip=False,
        )


def _token_axis(axes: Axes) -> None:
    """Training tokens, in the unit that gives short numbers; log where they span more than 30 to 1."""
    tokens = np.concatenate([np.asarray(line.get_xdata(), dtype=float) for line in axes.lines])
    unit, word = next(pair for pair in _UNITS if tokens.max() >= pair[0])
    if tokens.min() > 0 and tokens.max() / tokens.min() > 30:
        axes.set_xscale("log")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
        axes.set_xlim(left=0)
    style.plain_numbers(axes.xaxis, unit=unit)
    axes.set_xlabel(f"training tokens{word}")


_UNITS = ((1e9, ", billions"), (1e6, ", millions"), (1e3, ", thousands"), (0.0, ""))
