"""An evaluation as tables: one line per task and level, and the paper's tables per group with averages.

Tables 4-6 of Sparsing Law have a line per setting and a column per task; Table 1 has the averages of the
groups. Scores are in percent, as there. Each table is a header and lines of text.
"""

from __future__ import annotations

import csv
import dataclasses
import io

from sparsing.evaluation.outcome import Evaluation, Row
from sparsing.evaluation.tasks.paper_tasks import GROUPS, PAPER_TASKS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Text in lines and columns."""

    title: str
    header: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """With the title as a heading."""
        lines = [self.header, ["---"] + ["---:"] * (len(self.header) - 1), *self.rows]
        return f"## {self.title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def overview(evaluation: Evaluation) -> Table:
    """Every task at every level, with its difference to dense and the activation ratios while it ran."""
    header = ["task", "level", "score", "stderr", "to dense", "95%", "prefill ratio", "decode ratio"]
    header += ["items", "seconds"]
    part = f", {evaluation.limit} items a part" if evaluation.limit else ""
    title = f"{evaluation.provenance.model}{part} (scores and ratios in percent)"
    return Table(title=title, header=header, rows=[_line(row) for row in evaluation.rows])


def _line(row: Row) -> list[str]:
    interval = row.difference_interval
    return [
        row.title,
        row.level,
        percent(row.score),
        percent(row.stderr),
        f"{100 * row.difference:+.2f}" if row.difference is not None else "-",
        f"{100 * interval[0]:+.2f} to {100 * interval[1]:+.2f}" if interval else "-",
        percent(row.prefill_activation_ratio),
        percent(row.decode_activation_ratio),
        str(row.num_items),
        f"{row.wall_sec:.1f}",
    ]


def paper_tables(evaluation: Evaluation) -> list[Table]:
    """Tables 4-6 for the groups that were run, and Table 1 with their averages where there are several."""
    averages: dict[str, dict[str, float]] = {}
    tables = []
    for number, group in zip((4, 5, 6), GROUPS, strict=True):
        rows = [row for row in evaluation.rows if row.group == group]
        if not rows:
            continue
        columns = list(dict.fromkeys(row.title for row in rows))
        scores = {(row.level, row.title): row.score for row in rows}
        mean = {level: _mean([scores[level, one] for one in columns]) for level in evaluation.levels}
        averages[_heading(group, columns)] = mean
        lines = [
            [level, *(percent(scores[level, one], 1) for one in columns), percent(mean[level], 1)]
            for level in evaluation.levels
        ]
        title = f"Table {number}: {_heading(group, columns)}"
        tables.append(Table(title=title, header=["setting", *columns, "Avg"], rows=lines))
    if len(averages) > 1:
        tables.insert(0, _table_1(evaluation.levels, averages))
    return tables


def _table_1(levels: list[str], averages: dict[str, dict[str, float]]) -> Table:
    rows = [[level, *(percent(mean[level], 1) for mean in averages.values())] for level in levels]
    return Table(title="Table 1: averages", header=["setting", *averages], rows=rows)


def _heading(group: str, columns: list[str]) -> str:
    """The group's name, and how much of it was run where that is not all."""
    whole = [title for task in PAPER_TASKS.values() if task.group == group for title, _ in task.columns]
    part = "" if len(columns) == len(whole) else f" ({len(columns)} of {len(whole)} columns)"
    return GROUPS[group] + part


def as_csv(evaluation: Evaluation) -> str:
    """The rows in full precision, with the names of the JSON."""
    names = [field.name for field in dataclasses.fields(Row) if field.name != "difference_interval"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*names, "difference_low", "difference_high"])
    for row in evaluation.rows:
        low, high = row.difference_interval or ("", "")
        values = [getattr(row, name) for name in names]
        writer.writerow(["" if value is None else value for value in (*values, low, high)])
    return out.getvalue()


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction as a percentage; a dash for None."""
    return "-" if value is None else f"{100 * value:.{digits}f}"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
