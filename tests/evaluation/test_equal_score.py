"""The activation ratio of rules at an equal downstream score, from outcomes worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sparsing.errors import InputError
from sparsing.evaluation.equal_score import check_rules, level_name, order_at_score, ratio_at_drop
from sparsing.evaluation.outcome import DENSE
from sparsing.measuring.frontier import FrontierPoint
from sparsing.rules import make_rule

from ..helpers.outcomes import outcome


@pytest.mark.parametrize(
    ("changes", "drop", "wanted"),
    [
        ([-0.01, -0.03], 0.02, 0.4),  # halfway between the levels
        ([-0.01, -0.03], 0.01, 0.5),
        ([-0.02, -0.03], 0.01, 0.75),  # halfway between dense and the first level
        ([0.01, -0.01], 0.05, 0.3),  # no level loses as much
        ([-0.04, 0.01], 0.02, 0.75),  # the first crossing counts
    ],
)
def test_the_ratio_is_interpolated_to_the_first_crossing(changes, drop, wanted):
    assert ratio_at_drop(np.array([0.5, 0.3]), np.array(changes), drop) == pytest.approx(wanted)


def point(rule: str, level: float, ratio: float) -> FrontierPoint:
    return FrontierPoint(
        rule=rule,
        level=level,
        activation_ratio=ratio,
        activation_ratio_interval=None,
        ppl_ratio=1.0,
        ppl_ratio_interval=None,
    )


def test_rules_are_ordered_on_the_same_items():
    """`good` loses no item at 40%; `bad` loses a quarter of the items at both of its levels."""
    right, lossy = np.ones(40), np.tile([1.0, 1.0, 1.0, 0.0], 10)
    points = [
        point("good", 0.1, 0.6),
        point("good", 0.2, 0.4),
        point("bad", 0.1, 0.6),
        point("bad", 0.2, 0.4),
    ]
    items = [right, right, lossy, lossy]
    outcomes = [outcome(DENSE, right)]
    outcomes += [outcome(level_name(one), values) for one, values in zip(points, items, strict=True)]
    order = order_at_score(points, outcomes, drop=0.05)
    assert order.rules == ("good", "bad")
    assert order.values == pytest.approx([0.4, 1 - 0.4 * 0.05 / 0.25])
    assert (order.target_ppl_ratio, order.target_score_drop) == (None, 0.05)
    assert order.probability[0, 1] > 0.99
    with pytest.raises(InputError, match="no task reports a score per item"):
        order_at_score(points, [], drop=0.05)


def test_rules_that_look_at_other_tokens_are_refused():
    check_rules([make_rule("cett"), make_rule("top_k")])
    with pytest.raises(InputError, match="--tasks cannot evaluate griffin"):
        check_rules([make_rule("griffin")])
