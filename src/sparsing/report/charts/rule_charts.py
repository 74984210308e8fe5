"""Charts that compare rules, measures and models: perplexity against activation ratio, and the ratio at one cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from sparsing.errors import InputError
from sparsing.report.chart import NEUTRAL, Axis, Chart, Mark, Picture, Series, interval_columns
from sparsing.report.labels import model_label, origin_line

if TYPE_CHECKING:
    from sparsing.measuring.frontier import RuleComparison
    from sparsing.measuring.measurement import Measurement

Interval = tuple[float, float]
PPL_LINES = (1.01, 1.05, 1.10)
"""Perplexity ratios of PPL-1%, 5% and 10%."""
WIDE_PPL = 1.5
"""Above this perplexity ratio the axis is logarithmic, and the lines below 10% would fall together."""
SAME_PPL = 1e-4
"""A point this close to a perplexity ratio counts as measured at it."""


class RulePoint(Protocol):
    """A rule measured at one level: a `Measurement`, or a point of a comparison."""

    @property
    def rule(self) -> str: ...
    @property
    def level(self) -> float: ...
    @property
    def activation_ratio(self) -> float: ...
    @property
    def activation_ratio_interval(self) -> Interval | None: ...
    @property
    def ppl_ratio(self) -> float: ...
    @property
    def ppl_ratio_interval(self) -> Interval | None: ...
    @property
    def target_ppl_ratio(self) -> float | None: ...
    @property
    def converged(self) -> bool: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeptShare:
    """The activation ratio of a rule at a perplexity ratio."""

    ratio: float
    interval: Interval | None
    measured: bool
    """False if the ratio is interpolated between two measured points."""
    converged: bool = True
    """False if the level was searched for and no level meets the perplexity ratio."""


def frontier_picture(points: Sequence[RulePoint], *, subtitle: str = "", at: float = 1.01) -> Picture:
    """Perplexity against activation ratio, and what each rule keeps at the perplexity ratio `at`.

    Raises:
        InputError: if there are no points.
    """
    return Picture(title="Rules compared", subtitle=subtitle, charts=frontier_charts(points, at=at))


def comparison_picture(comparison: RuleComparison) -> Picture:
    """`frontier_picture` of a saved comparison, with its model and text below."""
    origin = comparison.provenance
    return frontier_picture(comparison.points, subtitle=origin_line(origin, origin.num_tokens))


def frontier_charts(points: Sequence[RulePoint], *, model: str = "", at: float = 1.01) -> list[Chart]:
    """The frontier of each rule; then the ratios at one cost, if any rule's points enclose it.

    Args:
        points: Of one model on one corpus, in any order; lines join the points of a rule.
        model: Name for the titles, where a page shows several models.
        at: The perplexity ratio of the second chart. Rules whose points do not enclose it are left out there.

    Raises:
        InputError: if there are no points.
    """
    if not points:
        raise InputError("there are no points to compare; give the measurements of at least one rule")
    lines = {rule: _sorted_points(points, rule) for rule in dict.fromkeys(point.rule for point in points)}
    suffix = f": {model}" if model else ""
    kept = {rule: share for rule, line in lines.items() if (share := kept_share(line, at))}
    charts = [_frontier_chart(lines, suffix)]
    return [*charts, _kept_chart(kept, list(lines), at, suffix)] if kept else charts


def kept_share(points: Sequence[RulePoint], ppl_ratio: float) -> KeptShare | None:
    """The activation ratio at a perplexity ratio, measured there or interpolated linearly between two points.

    Only a point whose level was searched for has an interval: the intervals of the other points lack the uncertainty
    of the level. None if no two points enclose the perplexity ratio.
    """
    searched = [p for p in points if p.target_ppl_ratio and abs(p.target_ppl_ratio - ppl_ratio) < 1e-9]
    near = min(searched or points, key=lambda point: abs(point.ppl_ratio - ppl_ratio))
    if searched or abs(near.ppl_ratio - ppl_ratio) <= SAME_PPL:
        interval = near.activation_ratio_interval if searched else None
        converged = near.converged if searched else True
        return KeptShare(ratio=near.activation_ratio, interval=interval, measured=True, converged=converged)
    ordered = sorted(points, key=lambda point: point.ppl_ratio)
    costs = [point.ppl_ratio for point in ordered]
    if not costs[0] < ppl_ratio < costs[-1]:
        return None
    ratio = float(np.interp(ppl_ratio, costs, [point.activation_ratio for point in ordered]))
    return KeptShare(ratio=ratio, interval=None, measured=False)


def _sorted_points(points: Sequence[RulePoint], rule: str) -> list[RulePoint]:
    return sorted((point for point in points if point.rule == rule), key=lambda point: point.activation_ratio)


def _frontier_chart(lines: Mapping[str, Sequence[RulePoint]], suffix: str) -> Chart:
    # a pass that was accepted for a target may lie a little below it
    most = max(max(p.ppl_ratio, p.target_ppl_ratio or 0) for line in lines.values() for p in line)
    wide = most > WIDE_PPL
    costs = PPL_LINES[-1:] if wide else [cost for cost in PPL_LINES if cost <= most * 1.001]
    searched = any(point.target_ppl_ratio for line in lines.values() for point in line)
    level = " Where a level was searched for, the horizontal bar includes the uncertainty of the level."
    dense = Series(name="dense", x=[1.0], y=[1.0], mode="points", colour=NEUTRAL)
    return Chart(
        title=f"Perplexity against activation ratio{suffix}",
        note="Every point rests on a pass over all tokens. Lower and further left is better; bars are 95% intervals."
        + (level if searched else ""),
        x=Axis(label="activation ratio"),
        y=Axis(
            label="perplexity ratio, sparse / dense", scales=("log", "linear") if wide else ("linear", "log")
        ),
        series=[*(_frontier_series(rule, line) for rule, line in lines.items()), dense],
        marks=[Mark(at=cost, label=f"PPL-{(cost - 1) * 100:.0f}%") for cost in costs],
    )


def _frontier_series(rule: str, points: Sequence[RulePoint]) -> Series:
    x_low, x_high = interval_columns([point.activation_ratio_interval for point in points])
    y_low, y_high = interval_columns([point.ppl_ratio_interval for point in points])
    return Series(
        name=rule,
        x=[point.activation_ratio for point in points],
        y=[point.ppl_ratio for point in points],
        x_low=x_low,
        x_high=x_high,
        y_low=y_low,
        y_high=y_high,
        text=[f"level {point.level:.4g}" for point in points],
    )


def _kept_chart(kept: Mapping[str, KeptShare], rules: Sequence[str], at: float, suffix: str) -> Chart:
    """A row per rule, the sparsest rule first."""
    rows = sorted(kept, key=lambda rule: kept[rule].ratio)
    cost = f"PPL-{round((at - 1) * 100, 4):g}%"
    missing = [rule for rule in rules if rule not in kept]
    notes = ["Bars are 95% intervals."]
    if not all(share.measured for share in kept.values()):
        notes.append("Hollow points are interpolated between two levels.")
    if unmet := [rule for rule, share in kept.items() if not share.converged]:
        notes.append(
            f"No level meets this cost, and the figure is that of the nearest level: {', '.join(unmet)}."
        )
    if missing:
        notes.append(f"No two levels enclose this cost: {', '.join(missing)}.")
    return Chart(
        title=f"Activation ratio at {cost}{suffix}",
        note=" ".join(notes),
        x=Axis(label="activation ratio"),
        y=Axis(label="rule", names=rows),
        series=[_kept_series(rule, kept[rule], row, rules.index(rule)) for row, rule in enumerate(rows)],
    )


def _kept_series(rule: str, share: KeptShare, row: int, colour: int) -> Series:
    low, high = interval_columns([share.interval])
    return Series(
        name=rule,
        x=[share.ratio],
        y=[row],
        x_low=low,
        x_high=high,
        values=[f"{share.ratio:.3f}"],
        mode="points" if share.measured else "open",
        colour=colour,
        listed=False,
    )


def measures_chart(results: Sequence[Measurement]) -> Chart:
    """Activation ratio under each measure: one series per measure over models; one series if there is one model."""
    models = list(dict.fromkeys(model_label(result.provenance) for result in results))
    names = list(dict.fromkeys(result.name for result in results))
    several = len(models) > 1
    groups = (
        {name: [result for result in results if result.name == name] for name in names}
        if several
        else {models[0]: results}
    )
    return Chart(
        title="Models and measures" if several else "Measures",
        note="Activation ratio with its 95% interval. The perplexity differs, see the table.",
        x=Axis(label="model" if several else "measure", names=models if several else names),
        y=Axis(label="activation ratio"),
        series=[
            _measures_series(name, chosen, models if several else names, several=several)
            for name, chosen in groups.items()
        ],
        side_by_side=several,
    )


def _measures_series(
    name: str, results: Sequence[Measurement], categories: list[str], *, several: bool
) -> Series:
    low, high = interval_columns([result.activation_ratio_interval for result in results])
    keys = [model_label(result.provenance) if several else result.name for result in results]
    return Series(
        name=name,
        x=[categories.index(key) for key in keys],
        y=[result.activation_ratio for result in results],
        y_low=low,
        y_high=high,
        text=[f"perplexity x {result.ppl_ratio:.4f}" for result in results],
        mode="points",
    )
