"""The benchmark section of a page, and the card of an evaluation on the first screen.

Scores are in percent and their changes in points, as in the tables that `sparsing evaluate` writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sparsing.report.cautions import evaluation_cautions
from sparsing.report.charts.benchmark_charts import (
    group_chart,
    group_title,
    in_points,
    score_chart,
    score_count,
)
from sparsing.report.page_parts import Card, PageTable, Section

if TYPE_CHECKING:
    from sparsing.evaluation.outcome import Evaluation

NOTE = (
    "Every level answered the same items as the dense model, so changes are paired item by item; an"
    " interval from 0 to 0 means that no item changed. Ratios were counted while the task ran: prefill over"
    " prompts and scored texts, decode over generated tokens."
)


def benchmark_section(evaluations: Mapping[str, Evaluation]) -> Section:
    """Charts and tables of the evaluations.

    Args:
        evaluations: By the name of their model.
    """
    charts, tables = [], []
    for name, evaluation in evaluations.items():
        charts += [group_chart(name, evaluation), score_chart(name, evaluation)]
        tables += _score_tables(name, evaluation)
    shown = [chart for chart in charts if chart.series]
    return Section(title="Benchmarks", note=NOTE, charts=shown, tables=tables)


def _score_tables(name: str, evaluation: Evaluation) -> list[PageTable]:
    """The table of every score, then the tables of the paper."""
    from sparsing.evaluation.tables import overview, paper_tables

    whole = overview(evaluation)
    part = f"first {evaluation.limit} items of each part, " if evaluation.limit else ""
    caption = f"{name}: scores and ratios in percent, {part}lm-eval {evaluation.harness_version}"
    tables = [PageTable(caption=caption, header=whole.header, rows=whole.rows)]
    return tables + [
        PageTable(caption=f"{name}: {table.title}", header=table.header, rows=table.rows)
        for table in paper_tables(evaluation)
    ]


def benchmark_card(name: str, evaluation: Evaluation) -> Card | None:
    """The mean change of all scores at the first sparse level; None if only the dense model was evaluated."""
    from sparsing.evaluation.outcome import ALL

    change = next((change for change in evaluation.changes if change.group == ALL), None)
    if change is None:
        return None
    points = in_points(change.difference_interval)
    return Card(
        model=name,
        name=f"benchmarks at {change.level}",
        figure=f"{100 * change.difference:+.2f}",
        interval=f"95% interval {points[0]:+.2f} to {points[1]:+.2f}" if points else "",
        sentence=f"points from dense: the mean change of {score_count(change.num_scores)}",
        gains=_gains(evaluation, change.level),
        cautions=evaluation_cautions(evaluation),
    )


def _gains(evaluation: Evaluation, level: str) -> list[tuple[str, str]]:
    """Changes of the groups, ratios while the tasks ran, items and time, as labels and values."""
    from sparsing.evaluation.outcome import ALL, DENSE

    gains = [
        (f"{group_title(change.group, change)}, mean change", f"{100 * change.difference:+.2f} points")
        for change in evaluation.changes
        if change.level == level and change.group != ALL
    ]
    # a task with several scores has several rows, with the same items and time
    runs = {(row.level, row.task): row for row in evaluation.rows}
    sparse = [row for (row_level, _), row in runs.items() if row_level == level]
    dense_sec = sum(row.wall_sec for (row_level, _), row in runs.items() if row_level == DENSE)
    sparse_sec = sum(row.wall_sec for row in sparse)
    if prefill := _ratio_range([row.prefill_activation_ratio for row in sparse]):
        gains.append(("activation ratio, prefill, by task", prefill))
    if decode := _ratio_range([row.decode_activation_ratio for row in sparse]):
        gains.append(("activation ratio, decode, by task", decode))
    gains.append(("items", f"{sum(row.num_items for row in sparse):,}"))
    gains.append(("time, dense to sparse", f"{dense_sec:,.1f} s to {sparse_sec:,.1f} s"))
    return gains


def _ratio_range(ratios: Sequence[float | None]) -> str:
    """The smallest and the largest ratio in percent, one number if they are equal; empty if none is known."""
    known = [ratio for ratio in ratios if ratio is not None]
    ends = [f"{100 * end:.1f}%" for end in (min(known), max(known))] if known else []
    return " to ".join(dict.fromkeys(ends))
