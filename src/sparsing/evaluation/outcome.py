"""The results of an evaluation: the scores of each task at each level, and the table of all of them.

A `TaskOutcome` keeps the value of every item, so that two levels can be compared item by item. An `Evaluation` is the
table with one row per score. The module imports no torch, so that a report can read saved evaluations without it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from sparsing.base.provenance import Provenance
from sparsing.base.results import Result
from sparsing.evaluation.model.activity import Activity
from sparsing.measuring.intervals import percentiles, resampled

DENSE = "dense"
"""Name of the level without thresholds."""
ALL = "all"
"""In place of the name of a group: the scores of all tasks."""

_ACCURACIES = ("acc", "acc_norm", "acc_bytes")
"""Metrics of lm-eval that are the share of items in which the model chose a right option."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TaskScore(Result):
    """One metric of a task."""

    kind = "task_score"

    title: str
    """Heading of the column."""
    metric: str
    """lm-eval's `metric,filter`."""
    value: float
    """lm-eval's value; for a task of several parts the mean over all their items."""
    items: np.ndarray | None
    """Value of each item, part by part, shape `(num_items,)`, float64; None if an item has no single number."""

    @property
    def is_mean(self) -> bool:
        """Whether the score is the mean of its items. A perplexity, for example, is not."""
        return self.items is not None and bool(
            np.isclose(self.items.mean(), self.value, rtol=1e-9, atol=1e-12)
        )

    @property
    def is_share(self) -> bool:
        """Whether the score is a mean of values in [0, 1], which is printed in percent. A perplexity is not."""
        return self.is_mean and self.items is not None and bool(((self.items >= 0) & (self.items <= 1)).all())

    @property
    def stderr(self) -> float | None:
        """Standard error of the mean, `std / sqrt(n)` as in lm-eval; None if the score is not a mean."""
        if not self.is_mean or self.items is None or len(self.items) < 2:
            return None
        return float(self.items.std(ddof=1) / np.sqrt(len(self.items)))

    def difference(self, dense: TaskScore) -> tuple[float, tuple[float, float] | None]:
        """This score minus the dense score, with a 95% bootstrap interval over the items of both.

        The items are paired, so the interval covers the change and not the spread of the items. It is None if a
        score is not a mean over items or there are fewer than two items.
        """
        change = self.value - dense.value
        if not (self.is_mean and dense.is_mean) or self.items is None or dense.items is None:
            return change, None
        assert len(self.items) == len(dense.items), f"{self.metric}: not the same items at both levels"
        if len(self.items) < 2:
            return change, None
        sums = resampled((self.items - dense.items)[:, None])
        return change, percentiles(sums[:, 0] / len(self.items))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartOutcome(Result):
    """One task of lm-eval that is part of a task of the paper."""

    kind = "part_outcome"

    name: str
    num_items: int
    metrics: dict[str, float]
    """Every number that lm-eval reports, by `metric,filter`."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TaskOutcome(Result):
    """A task at a level."""

    kind = "task_outcome"

    task: str
    group: str
    level: str
    identity: str
    """Digest of everything that decides the figures: model, thresholds, items, definitions, versions."""
    identity_parts: dict[str, str] = dataclasses.field(default_factory=dict[str, str])
    """The digests of which `identity` is made, by what they are; empty in files of earlier versions."""
    shots: int
    scores: tuple[TaskScore, ...]
    parts: tuple[PartOutcome, ...]
    absent: tuple[str, ...]
    """Parts without local items."""
    num_items: int
    prefill: Activity | None
    """None for the dense model."""
    decode: Activity | None
    wall_sec: float
    """Wall time for prompts, forwards and generated programs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row(Result):
    """One line of the table. Scores are in the units of lm-eval, mostly fractions in [0, 1]."""

    kind = "evaluation_row"

    task: str
    title: str
    group: str
    level: str
    score: float
    stderr: float | None
    difference: float | None
    """Score minus the dense score; None for dense."""
    is_share: bool = True
    """Whether the score is a mean of values in [0, 1]; others, such as a perplexity, are not printed in percent."""
    difference_interval: tuple[float, float] | None
    """95%, paired over items."""
    prefill_activation_ratio: float | None
    decode_activation_ratio: float | None
    """None if no token was generated, and for dense."""
    chance: float | None
    """The score of a guess among the options; None if an answer is not one of given options."""
    num_items: int
    wall_sec: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreChange(Result):
    """The change of the mean of several scores from dense to one level."""

    kind = "score_change"
    former_kind = "Change"

    level: str
    group: str
    """A group of the paper's tasks, or `all`."""
    num_scores: int
    difference: float
    """Mean over the scores, in their unit."""
    difference_interval: tuple[float, float] | None
    """95%, paired over items; None if a task has a single item."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation(Result):
    """The table of tasks and levels."""

    kind = "evaluation"

    schema_version = 3
    oldest_schema = 2

    rows: tuple[Row, ...]
    changes: tuple[ScoreChange, ...]
    limit: int | None
    """Items per part; None for all."""
    harness_version: str
    provenance: Provenance
    chat_template: bool = False
    """True if the prompts went through the model's chat template."""
    system_instruction: str | None = None
    """Text before every prompt; None for none."""

    @property
    def levels(self) -> list[str]:
        """Names of the levels, in the order in which they were given."""
        return list(dict.fromkeys(row.level for row in self.rows))


def rows_of(outcomes: list[TaskOutcome], chances: Mapping[str, float | None]) -> tuple[Row, ...]:
    """Rows of the table, each compared with the dense run of its task.

    Args:
        outcomes: One per task and level.
        chances: Task to the score of a guess.
    """
    dense = {outcome.task: outcome for outcome in outcomes if outcome.level == DENSE}
    return tuple(
        _row(outcome, score, dense.get(outcome.task), column, chances[outcome.task])
        for outcome in outcomes
        for column, score in enumerate(outcome.scores)
    )


def _row(
    outcome: TaskOutcome, score: TaskScore, dense: TaskOutcome | None, column: int, chance: float | None
) -> Row:
    change, interval = None, None
    if dense is not None and dense is not outcome:
        change, interval = score.difference(dense.scores[column])
    return Row(
        task=outcome.task,
        title=score.title,
        group=outcome.group,
        level=outcome.level,
        score=score.value,
        stderr=score.stderr,
        difference=change,
        difference_interval=interval,
        is_share=score.is_share,
        prefill_activation_ratio=ratio_of(outcome.prefill),
        decode_activation_ratio=ratio_of(outcome.decode),
        chance=chance if is_accuracy(score.metric) else None,
        num_items=outcome.num_items if score.items is None else len(score.items),
        wall_sec=outcome.wall_sec,
    )


def ratio_of(activity: Activity | None) -> float | None:
    """The activation ratio of a phase; None if no token was counted."""
    return activity.activation_ratio if activity is not None and activity.num_tokens else None


def is_accuracy(metric: str) -> bool:
    """Whether `metric,filter` counts right choices, so that the score of a guess can be compared with it."""
    return metric.partition(",")[0] in _ACCURACIES
