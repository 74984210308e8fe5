"""Standard errors and paired intervals by hand, rows beside their dense run, and results read back from their files."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from sparsing.evaluation.outcome import DENSE, Evaluation, TaskOutcome, is_accuracy

from ..helpers.outcomes import evaluation, outcome, score


def test_stderr_by_hand():
    assert score([1, 0, 0, 1]).stderr == pytest.approx(math.sqrt(1 / 3 / 4))
    assert score([1]).stderr is None


def test_the_interval_is_paired():
    """Two runs that differ in one item of 200 differ by 0.5 points, however uncertain each score is."""
    items = np.tile([0.0, 1.0], 100)
    changed = items.copy()
    changed[0] = 1.0
    change, (low, high) = score(changed).difference(score(items))
    assert change == pytest.approx(1 / 200)
    assert low == 0
    assert 0 < high <= 4 / 200
    assert score(items).stderr > 0.03


def test_the_interval_covers_the_true_change():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(60):
        dense = rng.random(60) < 0.5
        sparse = np.where(rng.random(60) < 0.2, rng.random(60) < 0.3, dense)  # falls by 0.2 * 0.2
        _, (low, high) = score(sparse).difference(score(dense))
        held += low <= -0.04 <= high
    assert held >= 52


def test_no_interval_for_a_score_that_is_no_mean():
    perplexity = score([-1.0, -2.0], value=math.exp(1.5))
    assert perplexity.stderr is None
    assert perplexity.difference(score([-1.0, -1.0], value=math.exp(1.0)))[1] is None


def test_items_must_agree():
    with pytest.raises(AssertionError, match="same items"):
        score([1, 0]).difference(score([1, 0, 1]))


def test_saved_and_loaded(tmp_path):
    before = outcome("PPL-1%", [1, 0, 1])
    after = TaskOutcome.load(before.save(tmp_path / "x" / "piqa.json"))
    assert after.to_dict() == before.to_dict()
    assert np.array_equal(after.scores[0].items, before.scores[0].items)
    table = evaluation(outcome(DENSE, [1, 1, 1]), before)
    assert Evaluation.load(table.save(tmp_path / "evaluation.json")) == table


def test_rows_stand_beside_their_dense_run():
    first, second = evaluation(outcome(DENSE, [1, 1, 0, 0]), outcome("PPL-1%", [1, 0, 0, 0])).rows
    assert (first.difference, first.prefill_activation_ratio) == (None, None)
    assert second.difference == -0.25
    assert second.prefill_activation_ratio == pytest.approx(0.3)
    assert second.decode_activation_ratio is None


def test_chance_belongs_to_accuracies_alone():
    accuracy = outcome("PPL-1%", [1, 0])
    other = dataclasses.replace(accuracy.scores[0], metric="f1,none")
    both = dataclasses.replace(accuracy, scores=(accuracy.scores[0], other))
    assert [row.chance for row in evaluation(both).rows] == [0.5, None]


@pytest.mark.parametrize(
    ("metric", "expected"), [("acc,none", True), ("acc_norm,none", True), ("f1,none", False), ("acc", True)]
)
def test_which_metrics_have_chance_as_their_floor(metric, expected):
    assert is_accuracy(metric) == expected
