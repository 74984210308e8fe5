"""An evaluation as tables: one line per task and level, and the tables of the paper per group with averages.

Tables 4-6 of Sparsing Law have a line per setting and a column per task; Table 1 has the averages of the groups. Scores
are in percent, as in the paper.
"""

from __future__ import annotations

import csv
import dataclasses
import io

from sparsing.evaluation.outcome import Evaluation, Row
from sparsing.evaluation.tasks.paper_tasks import GROUPS, PAPER_TASKS


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """A table whose cells are text."""

    title: str
    header: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """The table in Markdown, with the title as a heading."""
        lines = [self.header, ["---"] + ["---:"] * (len(self.header) - 1), *self.rows]
        return f"## {self.title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def overview(evaluation: Evaluation) -> ScoreTable:
    """Every task at every level, with its difference to dense and the activation ratios while it ran."""
    header = ["task", "level", "score", "stderr", "to dense", "95%", "prefill ratio", "decode ratio"]
    header += ["items", "seconds"]
    part = f", {evaluation.limit} items a part" if evaluation.limit else ""
    part += ", with its chat template" if evaluation.chat_template else ""
    title = f"{evaluation.provenance.model}{part} (shares and ratios in percent)"
    return ScoreTable(title=title, header=header, rows=[_cells(row) for row in evaluation.rows])


def _cells(row: Row) -> list[str]:
    interval = row.difference_interval
    return [
        row.title,
        row.level,
        _number(row, row.score),
        _number(row, row.stderr),
        _number(row, row.difference, sign="+"),
        f"{_number(row, interval[0], sign='+')} to {_number(row, interval[1], sign='+')}"
        if interval
        else "-",
        _percent(row.prefill_activation_ratio),
        _percent(row.decode_activation_ratio),
        str(row.num_items),
        f"{row.wall_sec:.1f}",
    ]


def paper_tables(evaluation: Evaluation) -> list[ScoreTable]:
    """Tables 4-6 for the groups that were run. Table 1 with their averages comes first if there are several groups."""
    averages: dict[str, dict[str, float]] = {}  # heading of a group to level to average
    tables = []
    for number, group in zip((4, 5, 6), GROUPS, strict=True):
        rows = [row for row in evaluation.rows if row.group == group]
        if not rows:
            continue
        columns = list(dict.fromkeys(row.title for row in rows))
        scores = {(row.level, row.title): row.score for row in rows}
        mean = {
            level: sum(scores[level, column] for column in columns) / len(columns)
            for level in evaluation.levels
        }
        averages[_heading(group, columns)] = mean
        lines = [
            [level, *(_percent(scores[level, column], 1) for column in columns), _percent(mean[level], 1)]
            for level in evaluation.levels
        ]
        title = f"Table {number}: {_heading(group, columns)}"
        tables.append(ScoreTable(title=title, header=["setting", *columns, "Avg"], rows=lines))
    if len(averages) > 1:
        lines = [
            [level, *(_percent(mean[level], 1) for mean in averages.values())] for level in evaluation.levels
        ]
        tables.insert(0, ScoreTable(title="Table 1: averages", header=["setting", *averages], rows=lines))
    return tables


def _heading(group: str, columns: list[str]) -> str:
    """The heading of a group; it says how many of the group's columns were run if some are missing."""
    whole = [title for task in PAPER_TASKS.values() if task.group == group for title, _ in task.columns]
    part = "" if len(columns) == len(whole) else f" ({len(columns)} of {len(whole)} columns)"
    return GROUPS[group] + part


def to_csv(evaluation: Evaluation) -> str:
    """The rows in full precision, with the names of the JSON file."""
    names = [field.name for field in dataclasses.fields(Row) if field.name != "difference_interval"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*names, "difference_low", "difference_high"])
    for row in evaluation.rows:
        values = [getattr(row, name) for name in names]
        writer.writerow([*values, *(row.difference_interval or (None, None))])  # None becomes an empty cell
    return out.getvalue()


def _percent(value: float | None, digits: int = 2) -> str:
    """A fraction as a percentage; a dash for None."""
    return "-" if value is None else f"{100 * value:.{digits}f}"


def _number(row: Row, value: float | None, sign: str = "") -> str:
    """A score of the row, in percent if it is a share, in its own unit otherwise; a dash for None."""
    if value is None:
        return "-"
    return f"{100 * value:{sign}.2f}" if row.is_share else f"{value:{sign}.4g}"
