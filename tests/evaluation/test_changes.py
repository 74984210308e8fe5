"""Changes of averages: compared with hand calculation and with the tables; coverage of their intervals."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from sparsing.evaluation.changes import changes_of
from sparsing.evaluation.outcome import DENSE
from sparsing.evaluation.tables import paper_tables

from ..helpers.outcomes import evaluation, outcome, score


def test_a_mean_over_columns_not_over_items():
    outcomes = [
        outcome(DENSE, [1, 0]),
        outcome("PPL-1%", [0, 0]),
        outcome(DENSE, [1] * 100, "siqa", title="SIQA"),
        outcome("PPL-1%", [1] * 100, "siqa", title="SIQA"),
        outcome(DENSE, [1, 1, 0, 0], "boolq", "reading", "BoolQ"),
        outcome("PPL-1%", [1, 0, 0, 0], "boolq", "reading", "BoolQ"),
    ]
    changes = {change.group: change for change in changes_of(outcomes)}
    assert list(changes) == ["commonsense", "reading", "all"]
    assert changes["commonsense"].difference == pytest.approx((-0.5 + 0) / 2)
    assert changes["all"].difference == pytest.approx((-0.5 + 0 - 0.25) / 3)
    assert [change.num_scores for change in changes.values()] == [2, 1, 3]
    (dense, sparse) = paper_tables(evaluation(*outcomes))[0].rows
    assert float(sparse[1]) - float(dense[1]) == pytest.approx(100 * changes["commonsense"].difference)


def test_an_average_of_one_score_has_its_interval():
    outcomes = [outcome(DENSE, [1, 0] * 20), outcome("low", [1, 0, 0, 0] * 10)]
    row = evaluation(*outcomes).rows[1]
    group, everything = changes_of(outcomes)
    assert (group.difference, group.difference_interval) == (row.difference, row.difference_interval)
    assert everything.difference_interval == row.difference_interval


def test_columns_of_one_task_share_their_items():
    """Two equal columns have the interval of one column."""

    def twice(outcome):
        first = outcome.scores[0]
        return dataclasses.replace(outcome, scores=(first, dataclasses.replace(first, title="b")))

    outcomes = [outcome(DENSE, [1, 0] * 20), outcome("low", [1, 0, 0, 0] * 10)]
    alone, doubled = changes_of(outcomes)[0], changes_of([twice(outcome) for outcome in outcomes])[0]
    assert doubled.num_scores == 2
    assert doubled.difference_interval == alone.difference_interval


def test_the_interval_of_an_average_covers_the_true_change():
    """Three tasks of different sizes, in which a right answer is lost with probability 0.04."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(40):
        outcomes = []
        for task, size in (("piqa", 60), ("siqa", 90), ("copa", 120)):
            dense = rng.random(size) < 0.5
            sparse = np.where(rng.random(size) < 0.2, rng.random(size) < 0.3, dense)
            outcomes += [outcome(DENSE, dense, task, ""), outcome("low", sparse, task, "")]
        low, high = changes_of(outcomes)[0].difference_interval
        held += low <= -0.04 <= high
    assert held >= 34


def test_scores_and_levels_that_are_left_out():
    perplexity = dataclasses.replace(outcome(DENSE, [1, 0]), scores=(score([-1.0, -2.0], value=4.5),))
    worse = dataclasses.replace(outcome("low", [1, 0]), scores=(score([-1.0, -3.0], value=7.4),))
    assert changes_of([perplexity, worse]) == ()
    assert changes_of([outcome(DENSE, [1, 0])]) == ()
    assert changes_of([outcome("low", [1, 0])]) == (), "nothing to be compared with"
    (group, _) = changes_of([outcome(DENSE, [1]), outcome("low", [0])])
    assert (group.difference, group.difference_interval) == (-1.0, None), "one item has no spread"
    (everything,) = changes_of([outcome(DENSE, [1, 0], group=""), outcome("low", [0, 0], group="")])
    assert everything.group == "all", "tasks that are not the paper's are in no group"
