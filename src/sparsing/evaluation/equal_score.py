"""`order_at_score`: the activation ratio of each rule at the same loss of downstream score, paired over items.

`sparsing compare --tasks` evaluates every level of a comparison. The score of a rule between two of its levels is
interpolated over the activation ratio. Each resample of the items moves all rules together, since all of them answer
the same items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparsing.errors import InputError
from sparsing.evaluation.changes import item_differences
from sparsing.evaluation.level import Level
from sparsing.evaluation.outcome import DENSE, TaskOutcome
from sparsing.measuring.intervals import resampled
from sparsing.measuring.rule_order import RuleOrder, order_rules

if TYPE_CHECKING:
    from sparsing.measuring.frontier import FrontierPoint
    from sparsing.measuring.subject import Subject
    from sparsing.rules import Rule

Floats = NDArray[np.float64]


def levels_to_evaluate(
    subject: Subject, rules: Sequence[Rule], points: Sequence[FrontierPoint]
) -> list[Level]:
    """The dense level and the levels of all points of a comparison, named by `level_name`."""
    by_label = {rule.label: rule for rule in rules}
    return [
        Level(name=DENSE),
        *(
            Level(name=level_name(point), thresholds=subject.thresholds(by_label[point.rule], point.level))
            for point in points
        ),
    ]


def level_name(point: FrontierPoint) -> str:
    """Name of the level of a point in an evaluation, e.g. `cett 0.1034`."""
    return f"{point.rule} {point.level:.6g}"


def check_rules(rules: Sequence[Rule]) -> None:
    """Checks that the rules can be evaluated on tasks.

    Raises:
        InputError: If the active set of a token depends on other tokens.
    """
    from sparsing.rules.selections import SELECTIONS

    for rule in rules:
        if not SELECTIONS[rule.selection].per_token:
            raise InputError(
                f"--tasks cannot evaluate {rule.label}, which chooses the neurons of a token by other tokens of its"
                " window; leave out the rule or --tasks"
            )


def order_at_score(
    points: Sequence[FrontierPoint], outcomes: Sequence[TaskOutcome], *, drop: float
) -> RuleOrder:
    """The order of the rules by activation ratio where the mean score is `drop` below that of the dense model.

    Args:
        points: Of a comparison, by rule from dense to sparse.
        outcomes: Of each task at the levels `levels_to_evaluate`.
        drop: Loss of the mean over all scores of all tasks, a fraction: 0.01 is one point.

    Raises:
        InputError: If no task has scores of single items, as accuracies have.
    """
    by_level = item_differences(outcomes)
    names = [level_name(point) for point in points]
    sets = list(zip(*(by_level.get(name, []) for name in names), strict=True))
    if not sets:
        raise InputError(
            "no task reports a score per item, such as an accuracy; choose other --tasks, e.g. piqa"
        )
    # for each set of items of a task: the change of each item at each level, shape (num_items, n_levels)
    tables = [np.stack([items.mean(1) for items in levels], axis=1) for levels in sets]
    changes = np.mean([table.mean(0) for table in tables], axis=0)
    # different seeds make the resamples of the tasks independent
    drawn = np.mean(
        [resampled(table, seed=seed) / len(table) for seed, table in enumerate(tables)], axis=0
    )  # (RESAMPLES, n_levels)
    rules = list(dict.fromkeys(point.rule for point in points))
    places = {rule: [i for i, point in enumerate(points) if point.rule == rule] for rule in rules}
    ratios = {rule: np.array([points[i].activation_ratio for i in own]) for rule, own in places.items()}
    return order_rules(
        "activation ratio",
        None,
        {rule: ratio_at_drop(ratios[rule], changes[own], drop) for rule, own in places.items()},
        {
            rule: np.array([ratio_at_drop(ratios[rule], one[own], drop) for one in drawn])
            for rule, own in places.items()
        },
        float(min(len(table) for table in tables)),
        target_score_drop=drop,
    )


def ratio_at_drop(ratios: Floats, changes: Floats, drop: float) -> float:
    """The activation ratio at which the score first falls by `drop`, interpolated between two levels.

    The ratio of the sparsest level if the score falls by less at all levels.

    Args:
        ratios: Activation ratio of each level, falling, shape `(n_levels,)`.
        changes: Score minus the dense score at each level, same shape.
    """
    ratios, losses = np.append(1.0, ratios), np.append(0.0, -changes)
    below = np.flatnonzero(losses > drop)
    if len(below) == 0:
        return float(ratios[-1])
    after = int(below[0])
    share = (drop - losses[after - 1]) / (losses[after] - losses[after - 1])
    return float(ratios[after - 1] + share * (ratios[after] - ratios[after - 1]))
