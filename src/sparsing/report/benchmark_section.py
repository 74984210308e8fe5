"""Benchmark scores on a page: the card of an evaluation, its tables, and charts of the change from dense.

Scores and their changes are in percent and in points, as in the tables that `sparsing evaluate` writes.
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


def _tables(name: str, evaluation: Evaluation) -> list[PageTable]:
    """Every score, then the paper's tables."""
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
    """The change of all scores at the first level beside dense; None where nothing was compared."""
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
    from sparsing.evaluation.outcome import ALL, DENSE

    gains = [
        (f"{group_title(change.group, change)}, mean change", f"{100 * change.difference:+.2f} points")
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
