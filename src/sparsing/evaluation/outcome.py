"""What an evaluation says: scores of a task at a level, its items for pairing, and the table of all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from sparsing.base.provenance import Provenance
from sparsing.base.results import Result
from sparsing.evaluation.model.activity import Activity
from sparsing.evaluation.tasks.chance import counts_right_choices
from sparsing.measuring.intervals import percentiles, resampled
from sparsing.rules.thresholds import Thresholds

DENSE = "dense"
ALL = "all"
"""Stands for every score where a group of tasks could stand."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Level(Result):
    """A setting that every task is run at."""

    kind = "evaluation_level"

    name: str
    """E.g. `dense`, `PPL-1%`."""
    thresholds: Thresholds | None = None
    """None for the dense model."""

    @property
    def slug(self) -> str:
        """`name` as a folder name."""
        return "".join(c if c.isalnum() or c in "-." else "-" for c in self.name.replace("%", "")).lower()


def level_of(thresholds: Thresholds, fallback: str) -> Level:
    """The level that thresholds stand for: `PPL-p%`, the rule and its level, or the name of their file."""
    if thresholds.target_ppl_ratio is not None:
        name = f"PPL-{round((thresholds.target_ppl_ratio - 1) * 100, 4):g}%"
        name = name if thresholds.rule == "cett" else f"{thresholds.rule} {name}"
    elif np.isfinite(thresholds.level):
        name = f"{thresholds.rule} {thresholds.level:.4g}"
    else:
        name = fallback
    return Level(name=name, thresholds=thresholds)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Score(Result):
    """One metric of a task."""

    kind = "task_score"

    title: str
    """Heading of its column."""
    metric: str
    """`metric,filter` of the harness."""
    value: float
    """The harness's value; over several parts the mean over their items."""
    items: np.ndarray | None
    """Value of each item, parts in order, shape `(num_items,)`, float64; None where it is no single number."""

    @property
    def is_mean(self) -> bool:
        """Whether the score is the mean of its items; perplexities, for example, are not."""
        return self.items is not None and bool(
            np.isclose(self.items.mean(), self.value, rtol=1e-9, atol=1e-12)
        )

    @property
    def stderr(self) -> float | None:
        """Standard error of the mean, `std / sqrt(n)` as in the harness; None where that does not apply."""
        if not self.is_mean or self.items is None or len(self.items) < 2:
            return None
        return float(self.items.std(ddof=1) / np.sqrt(len(self.items)))

    def difference(self, dense: Score) -> tuple[float, tuple[float, float] | None]:
        """This minus dense, with a 95% bootstrap interval over the items that both have scored."""
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
    """One task of the harness within a task of the paper."""

    kind = "part_outcome"

    name: str
    num_items: int
    metrics: dict[str, float]
    """Every number that the harness reports, by `metric,filter`."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TaskOutcome(Result):
    """A task at a level."""

    kind = "task_outcome"

    task: str
    group: str
    level: str
    identity: str
    """Digest of what decides the figures: model, thresholds, items, definitions, versions."""
    shots: int
    scores: tuple[Score, ...]
    parts: tuple[PartOutcome, ...]
    absent: tuple[str, ...]
    """Parts without local items."""
    num_items: int
    prefill: Activity | None
    """None for the dense model."""
    decode: Activity | None
    wall_sec: float
    """Prompts, model, and the running of generated programs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row(Result):
    """One line of the table. Scores are in the harness's units, mostly fractions in [0, 1]."""

    kind = "evaluation_row"

    task: str
    title: str
    group: str
    level: str
    score: float
    stderr: float | None
    difference: float | None
    """To dense; None for dense."""
    difference_interval: tuple[float, float] | None
    """95%, paired over items."""
    prefill_activation_ratio: float | None
    decode_activation_ratio: float | None
    """None where no token was generated, and for dense."""
    chance: float | None
    """What a guess among the options scores; None where an answer is not one of given options."""
    num_items: int
    wall_sec: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change(Result):
    """How far the mean of several scores is from dense at one level."""

    kind = "score_change"

    level: str
    group: str
    """A group of the paper's tasks, or `all`."""
    num_scores: int
    difference: float
    """Mean over the scores, in their unit."""
    difference_interval: tuple[float, float] | None
    """95%, paired over items; None where a task has a single item."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation(Result):
    """The table of tasks and levels."""

    kind = "evaluation"

    schema_version = 3
    oldest_schema = 2

    rows: tuple[Row, ...]
    changes: tuple[Change, ...]
    limit: int | None
    """Items per part; None for all."""
    harness_version: str
    provenance: Provenance

    @property
    def levels(self) -> list[str]:
        """In the order they were given."""
        return list(dict.fromkeys(row.level for row in self.rows))


def rows_of(outcomes: list[TaskOutcome], chances: Mapping[str, float | None]) -> tuple[Row, ...]:
    """Lines of the table, each level beside the dense run of its task.

    Args:
        chances: What guessing scores, by task.
    """
    dense = {outcome.task: outcome for outcome in outcomes if outcome.level == DENSE}
    return tuple(
        _row(outcome, score, dense.get(outcome.task), column, chances[outcome.task])
        for outcome in outcomes
        for column, score in enumerate(outcome.scores)
    )


def _row(
    outcome: TaskOutcome, score: Score, dense: TaskOutcome | None, column: int, chance: float | None
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
        prefill_activation_ratio=ratio_of(outcome.prefill),
        decode_activation_ratio=ratio_of(outcome.decode),
        chance=chance if counts_right_choices(score.metric) else None,
        num_items=outcome.num_items,
        wall_sec=outcome.wall_sec,
    )


def ratio_of(seen: Activity | None) -> float | None:
    """The activation ratio of a phase; None where no token counted."""
    return seen.activation_ratio if seen is not None and seen.num_tokens else None
