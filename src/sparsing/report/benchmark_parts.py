"""Benchmark scores on a page: the card of an evaluation, its tables, and charts of the change from dense.

Scores and their changes are in percent and in points, as in the tables that `sparsing evaluate` writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sparsing.report.cautions import evaluation_cautions
from sparsing.report.charts import Chart, Mark, Series, columns
from sparsing.report.parts import Card, Section, Table

if TYPE_CHECKING:
    from sparsing.evaluation.outcome import Change, Evaluation, Row

NOTE = (
    "Every level answered the same items as the dense model, so changes are paired item by item; an"
    " interval from 0 to 0 means that no item changed. Ratios were counted while the task ran: prefill over"
    " prompts and scored texts, decode over generated tokens."
)


def benchmark_section(evaluations: Mapping[str, Evaluation]) -> Section:
    """Charts and tables of evaluations by the name of their model."""
    charts = []
    for name, evaluation in evaluations.items():
        charts += [group_chart(name, evaluation), score_chart(name, evaluation)]
    return Section(
        title="Benchmarks",
        note=NOTE,
        charts=[chart for chart in charts if chart.series],
        tables=[table for name, one in evaluations.items() for table in _tables(name, one)],
    )


def _tables(name: str, evaluation: Evaluation) -> list[Table]:
    """Every score, then the paper's tables."""
    from sparsing.evaluation.tables import overview, paper_tables

    whole = overview(evaluation)
    part = f"first {evaluation.limit} items of each part, " if evaluation.limit else ""
    caption = f"{name}: scores and ratios in percent, {part}lm-eval {evaluation.harness_version}"
    tables = [Table(caption=caption, header=whole.header, rows=whole.rows)]
    return tables + [
        Table(caption=f"{name}: {table.title}", header=table.header, rows=table.rows)
        for table in paper_tables(evaluation)
    ]


def group_chart(name: str, evaluation: Evaluation) -> Chart:
    """Change of the averages against level, a series per group; empty without a level beside dense.

    The average of all scores is left out where it is that of the one group.
    """
    from sparsing.evaluation.outcome import ALL

    levels = list(dict.fromkeys(change.level for change in evaluation.changes))
    sizes = {change.group: change.num_scores for change in evaluation.changes}
    groups = [group for group in sizes if group != ALL or list(sizes.values()).count(sizes[ALL]) == 1]
    return _change_chart(
        title=f"Change of the averages: {name}",
        note="Mean change of the scores of a group, with its 95% interval over items.",
        x="level",
        x_names=levels,
        series=[
            _series(
                _title(group, chosen[0]),
                [levels.index(change.level) for change in chosen],
                chosen,
                text=[f"mean of {_scores(change.num_scores)}" for change in chosen],
            )
            for group in groups
            for chosen in [[change for change in evaluation.changes if change.group == group]]
        ],
    )


def score_chart(name: str, evaluation: Evaluation) -> Chart:
    """Change of each score, a series per level; scores that are no mean over items have no interval and no place."""
    rows = [row for row in evaluation.rows if row.difference_interval is not None]
    titles = list(dict.fromkeys(row.title for row in rows))
    levels = list(dict.fromkeys(row.level for row in rows))
    return _change_chart(
        title=f"Change of each score: {name}",
        note=f"{', '.join(levels)} against dense, with 95% intervals over items.",
        x="score",
        x_names=titles,
        series=[
            _series(
                level,
                [titles.index(row.title) for row in chosen],
                chosen,
                text=[_said(row) for row in chosen],
            )
            for level in levels
            for chosen in [[row for row in rows if row.level == level]]
        ],
    )


def _change_chart(*, title: str, note: str, x: str, x_names: list[str], series: list[Series]) -> Chart:
    return Chart(
        title=title,
        note=note,
        x=x,
        y="change from dense, points",
        series=series,
        marks=[Mark(at=0.0, label="dense")],
        x_names=x_names,
        side_by_side=True,
    )


def _series(name: str, x: list[int], moved: Sequence[Change] | Sequence[Row], *, text: list[str]) -> Series:
    low, high = columns([_points(one.difference_interval) for one in moved])
    y = [100 * one.difference for one in moved if one.difference is not None]
    return Series(name=name, x=x, y=y, y_low=low, y_high=high, text=text, mode="points")


def _points(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    return None if interval is None else (100 * interval[0], 100 * interval[1])


def _said(row: Row) -> str:
    return f"score {100 * row.score:.2f} of {row.num_items:,} items"


def _title(group: str, change: Change) -> str:
    from sparsing.evaluation.tasks.paper_tasks import GROUPS

    return GROUPS.get(group, f"all {_scores(change.num_scores)}")


def _scores(count: int) -> str:
    return "1 score" if count == 1 else f"{count} scores"


def benchmark_card(name: str, evaluation: Evaluation) -> Card | None:
    """The change of all scores at the first level beside dense; None where nothing was compared."""
    from sparsing.evaluation.outcome import ALL

    change = next((change for change in evaluation.changes if change.group == ALL), None)
    if change is None:
        return None
    points = _points(change.difference_interval)
    return Card(
        model=name,
        name=f"benchmarks at {change.level}",
        figure=f"{100 * change.difference:+.2f}",
        interval=f"95% interval {points[0]:+.2f} to {points[1]:+.2f}" if points else "",
        sentence=f"points from dense: the mean change of {_scores(change.num_scores)}",
        gains=_gains(evaluation, change.level),
        cautions=evaluation_cautions(evaluation),
    )


def _gains(evaluation: Evaluation, level: str) -> list[tuple[str, str]]:
    from sparsing.evaluation.outcome import ALL, DENSE

    gains = [
        (f"{_title(change.group, change)}, mean change", f"{100 * change.difference:+.2f} points")
        for change in evaluation.changes
        if change.level == level and change.group != ALL
    ]
    runs = {(row.level, row.task): row for row in evaluation.rows}  # a task may have several scores
    sparse = [row for (at, _), row in runs.items() if at == level]
    dense = [row for (at, _), row in runs.items() if at == DENSE]
    prefill = [row.prefill_activation_ratio for row in sparse]
    decode = [row.decode_activation_ratio for row in sparse]
    gains += [
        (f"activation ratio, {phase}, by task", said)
        for phase, ratios in (("prefill", prefill), ("decode", decode))
        if (said := _range(ratios))
    ]
    gains.append(("items", f"{sum(row.num_items for row in sparse):,}"))
    gains.append(
        (
            "time, dense to sparse",
            f"{sum(r.wall_sec for r in dense):,.1f} s to {sum(r.wall_sec for r in sparse):,.1f} s",
        )
    )
    return gains


def _range(ratios: Sequence[float | None]) -> str:
    known = [ratio for ratio in ratios if ratio is not None]
    return f"{100 * min(known):.1f}% to {100 * max(known):.1f}%" if known else ""
