"""The change of the mean of several scores from dense to a sparse level, with an interval over all their items.

The averages are those of Tables 1 and 4-6 of Sparsing Law: a mean over columns, whatever their numbers of items.
Items are resampled within each task and independently of other tasks. The columns of one task share their items.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsing.evaluation.outcome import ALL, DENSE, ScoreChange, TaskOutcome
from sparsing.evaluation.tasks.paper_tasks import GROUPS
from sparsing.measuring.intervals import percentiles, resampled


def changes_of(outcomes: Sequence[TaskOutcome]) -> tuple[ScoreChange, ...]:
    """The changes of every level but dense: of each group of the paper that was run, then of all scores.

    A score that is not a share, such as a perplexity, is left out.
    """
    return tuple(
        _change(level, group, selected)
        for level, tasks in _by_level(outcomes).items()
        for group in (*GROUPS, ALL)
        if (selected := [items for name, items in tasks if group in (name, ALL) and items.shape[1]])
    )


def item_differences(outcomes: Sequence[TaskOutcome]) -> dict[str, list[np.ndarray]]:
    """Sparse minus dense of every item at every level but dense, by the name of the level.

    Returns: For each set of columns with the same items an array of shape `(num_items, n_columns)`, in the same order
        for all levels if all have the same tasks.
    """
    return {level: [items for _, items in sets] for level, sets in _by_level(outcomes).items()}


def _by_level(outcomes: Sequence[TaskOutcome]) -> dict[str, list[tuple[str, np.ndarray]]]:
    """Level to the group and the `_differences` of each of its tasks."""
    dense = {outcome.task: outcome for outcome in outcomes if outcome.level == DENSE}
    differences: dict[str, list[tuple[str, np.ndarray]]] = {}
    for outcome in outcomes:
        if outcome.level != DENSE and outcome.task in dense:
            for items in _differences(outcome, dense[outcome.task]):
                differences.setdefault(outcome.level, []).append((outcome.group, items))
    return differences


def _differences(outcome: TaskOutcome, dense: TaskOutcome) -> list[np.ndarray]:
    """Sparse minus dense of every item, shape `(num_items, n_columns)`, for each set of columns with the same items."""
    columns: dict[int, list[np.ndarray]] = {}
    for score, other in zip(outcome.scores, dense.scores, strict=True):
        if score.items is not None and other.items is not None and score.is_share and other.is_share:
            columns.setdefault(len(score.items), []).append(score.items - other.items)
    return [np.stack(same, axis=1) for same in columns.values()]


def _change(level: str, group: str, tasks: list[np.ndarray]) -> ScoreChange:
    """The change of a group, from the `_differences` of its tasks."""
    num_scores = sum(items.shape[1] for items in tasks)
    interval = None
    if min(map(len, tasks)) > 1:
        # Different seeds make the resamples of the tasks independent.
        sums = sum(resampled(m, seed=seed).sum(1) / len(m) for seed, m in enumerate(tasks))
        interval = percentiles(np.asarray(sums) / num_scores)
    return ScoreChange(
        level=level,
        group=group,
        num_scores=num_scores,
        difference=float(sum(items.mean(0).sum() for items in tasks) / num_scores),
        difference_interval=interval,
    )
