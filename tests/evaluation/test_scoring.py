"""Scores of groups: one per metric, in percent only if they are shares."""

from __future__ import annotations

import numpy as np
import pytest

from sparsing.errors import InputError
from sparsing.evaluation.changes import changes_of
from sparsing.evaluation.outcome import DENSE, PartOutcome, TaskOutcome, rows_of
from sparsing.evaluation.scoring import columns_of, score_of
from sparsing.evaluation.tables import _cells


def part(name: str, num_items: int, **metrics: float) -> PartOutcome:
    return PartOutcome(name=name, num_items=num_items, metrics={f"{k},none": v for k, v in metrics.items()})


def samples(name: str, values: list) -> list[dict]:
    return [{"doc_id": i, "filter": "none", name: value} for i, value in enumerate(values)]


PARTS = [
    part("first", 4, acc=0.75, acc_norm=0.5),
    part("second", 2, exact_match=0.5),
    part("third", 2, acc=0.5),
]
RESULTS = {
    "samples": {
        "first": samples("acc", [1, 1, 0, 1]),
        "second": samples("exact_match", [1, 0]),
        "third": samples("acc", [0, 1]),
    }
}


def outcome(level: str, scores) -> TaskOutcome:
    return TaskOutcome(
        task="group", group="", level=level, identity="", shots=0, scores=tuple(scores), parts=tuple(PARTS),
        absent=(), num_items=8, prefill=None, decode=None, wall_sec=1.0,
    )  # fmt: skip


def scores_of_group():
    return [score_of(title, metric, own, RESULTS) for title, metric, own in columns_of("group", PARTS)]


def test_a_group_of_several_metrics_has_a_score_for_each():
    accuracy, exact = scores_of_group()
    assert (accuracy.title, exact.title) == ("group, acc", "group, exact_match")
    assert accuracy.value == pytest.approx((0.75 * 4 + 0.5 * 2) / 6)
    assert exact.value == 0.5
    assert (len(accuracy.items), len(exact.items)) == (6, 2)


def test_a_group_of_one_metric_has_its_own_name():
    assert [(title, metric) for title, metric, _ in columns_of("mmlu", PARTS[::2])] == [("mmlu", "acc,none")]


def test_a_part_without_a_number_is_named():
    with pytest.raises(InputError, match="task empty reports no number"):
        columns_of("group", [*PARTS, part("empty", 1)])


def test_changes_of_a_group_whose_scores_have_other_items():
    dense, sparse = scores_of_group(), scores_of_group()
    sparse[1].items[:] = 0
    object.__setattr__(sparse[1], "value", 0.0)
    (change,) = changes_of([outcome(DENSE, dense), outcome("sparse", sparse)])
    assert change.num_scores == 2
    assert change.difference == pytest.approx((0.0 - 0.5) / 2)


def test_only_shares_are_printed_in_percent():
    perplexity = score_of(
        "text",
        "word_perplexity,none",
        [part("text", 2, word_perplexity=9.37)],
        {"samples": {"text": samples("word_perplexity", [(-5.0, 2), (-4.0, 2)])}},
    )
    bleu = score_of(
        "bleu",
        "bleu,none",
        [part("bleu", 2, bleu=30.0)],
        {"samples": {"bleu": samples("bleu", [20.0, 40.0])}},
    )
    share = scores_of_group()[0]
    rows = rows_of([outcome(DENSE, [perplexity, bleu, share])], {"group": None})
    assert [row.is_share for row in rows] == [False, False, True]
    assert [row.num_items for row in rows] == [8, 2, 6]
    assert [_cells(row)[2] for row in rows] == ["9.37", "30", "66.67"]
    assert np.isclose(rows[2].score, 2 / 3)
