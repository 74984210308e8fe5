"""Charts of benchmark scores: the change from dense, in points, of each score and of the averages of groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparsing.report.chart import Axis, Chart, Mark, Series, interval_columns

if TYPE_CHECKING:
    from sparsing.evaluation.outcome import Evaluation, Row, ScoreChange


def group_chart(name: str, evaluation: Evaluation) -> Chart:
    """Change of the averages against level, a series per group; no series if only the dense model was evaluated.

    The average of all scores is left out if all scores are in one group, whose average is the same.
    """
    from sparsing.evaluation.outcome import ALL

    levels = list(dict.fromkeys(change.level for change in evaluation.changes))
    sizes = {change.group: change.num_scores for change in evaluation.changes}
    groups = [group for group in sizes if group != ALL or list(sizes.values()).count(sizes[ALL]) == 1]
    changes = {group: [change for change in evaluation.changes if change.group == group] for group in groups}
    return _change_chart(
        title=f"Change of the averages: {name}",
        note="Mean change of the scores of a group, with its 95% interval over items.",
        x=Axis(label="level", names=levels),
        series=[
            _change_series(
                group_title(group, chosen[0]),
                [levels.index(change.level) for change in chosen],
                chosen,
                text=[f"mean of {score_count(change.num_scores)}" for change in chosen],
            )
            for group, chosen in changes.items()
        ],
    )


def score_chart(name: str, evaluation: Evaluation) -> Chart:
    """Change of each score, a series per level.

    A score that is not a share, such as a perplexity, is left out.
    """
    rows = [row for row in evaluation.rows if row.is_share and row.difference_interval is not None]
    titles = list(dict.fromkeys(row.title for row in rows))
    levels = list(dict.fromkeys(row.level for row in rows))
    by_level = {level: [row for row in rows if row.level == level] for level in levels}
    return _change_chart(
        title=f"Change of each score: {name}",
        note=f"{', '.join(levels)} against dense, with 95% intervals over items.",
        x=Axis(label="score", names=titles),
        series=[
            _change_series(
                level,
                [titles.index(row.title) for row in chosen],
                chosen,
                text=[f"score {100 * row.score:.2f} of {row.num_items:,} items" for row in chosen],
            )
            for level, chosen in by_level.items()
        ],
    )


def group_title(group: str, change: ScoreChange) -> str:
    """The heading of a group, or `all 12 scores`."""
    from sparsing.evaluation.tasks.paper_tasks import GROUPS

    return GROUPS.get(group, f"all {score_count(change.num_scores)}")


def score_count(count: int) -> str:
    return "1 score" if count == 1 else f"{count} scores"


def in_points(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    """An interval of fractions as percentage points."""
    return None if interval is None else (100 * interval[0], 100 * interval[1])


def _change_chart(*, title: str, note: str, x: Axis, series: list[Series]) -> Chart:
    return Chart(
        title=title,
        note=note,
        x=x,
        y=Axis(label="change from dense, points"),
        series=series,
        marks=[Mark(at=0.0, label="dense")],
        side_by_side=True,
    )


def _change_series(
    name: str, x: list[int], changes: Sequence[ScoreChange] | Sequence[Row], *, text: list[str]
) -> Series:
    low, high = interval_columns([in_points(change.difference_interval) for change in changes])
    y = [100 * change.difference for change in changes if change.difference is not None]
    return Series(name=name, x=x, y=y, y_low=low, y_high=high, text=text, mode="points")
