"""How far the mean of several scores moves from dense, with an interval over the items of all of them.

The averages are those of Tables 1 and 4-6 of Sparsing Law: a mean over columns, whatever their numbers of items.
Items are resampled within each task and independently of other tasks; columns of one task share their items.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsing.evaluation.outcome import ALL, DENSE, Change, TaskOutcome
from sparsing.evaluation.tasks.paper_tasks import GROUPS
from sparsing.measuring.intervals import percentiles, resampled


def changes_of(outcomes: Sequence[TaskOutcome]) -> tuple[Change, ...]:
    """Changes of every level but dense: of each of the paper's groups that was run, then of all scores.

    A score that is no mean over items, such as a perplexity, is left out.
    """
    dense = {outcome.task: outcome for outcome in outcomes if outcome.level == DENSE}
    moved: dict[str, list[tuple[str, np.ndarray]]] = {}
    for outcome in outcomes:
        if outcome.level != DENSE and outcome.task in dense:
            moved.setdefault(outcome.level, []).append((outcome.group, _moved(outcome, dense[outcome.task])))
    return tuple(
        _change(level, group, chosen)
        for level, tasks in moved.items()
        for group in (*GROUPS, ALL)
        if (chosen := [items for at, items in tasks if group in (at, ALL) and items.shape[1]])
    )


def _moved(outcome: TaskOutcome, dense: TaskOutcome) -> np.ndarray:
    """Item by item, this minus dense, shape `(num_items, n_columns)`."""
    pairs = zip(outcome.scores, dense.scores, strict=True)
    columns = [one.items - other.items for one, other in pairs if one.is_mean and other.is_mean]  # pyright: ignore
    return np.stack(columns, axis=1) if columns else np.empty((0, 0))


def _change(level: str, group: str, tasks: list[np.ndarray]) -> Change:
    num_scores = sum(moved.shape[1] for moved in tasks)
    interval = None
    if min(map(len, tasks)) > 1:
        sums = sum(resampled(m, seed=seed).sum(1) / len(m) for seed, m in enumerate(tasks))
        interval = percentiles(np.asarray(sums) / num_scores)
    return Change(
        level=level,
        group=group,
        num_scores=num_scores,
        difference=float(sum(moved.mean(0).sum() for moved in tasks) / num_scores),
        difference_interval=interval,
    )
