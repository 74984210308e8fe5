"""The tables of a comparison of rules: their order at one cost in perplexity, and how much their active sets agree."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparsing.measuring.rule_order import RuleOrder, RuleOverlap
    from sparsing.report.measurement_tables import Rows


def order(order: RuleOrder) -> Rows:
    """One row per rule, the smallest value first, with the paired difference to the best rule and to the next one."""
    header = [
        "rank",
        "rule",
        order.measure,
        "more than the first [95%]",
        "below the next one with probability",
    ]
    last = len(order.rules) - 1
    rows = [
        [
            str(place + 1),
            rule,
            _value(order, order.values[place]),
            "-"
            if place == 0
            else f"[{_value(order, order.difference_low[place, 0])},"
            f" {_value(order, order.difference_high[place, 0])}]",
            "-" if place == last else f"{order.probability[place, place + 1]:.1%}",
        ]
        for place, rule in enumerate(order.rules)
    ]
    return header, rows


def cost(order: RuleOrder) -> str:
    """The cost at which the rules are compared, e.g. `PPL-1%`."""
    if order.target_ppl_ratio is not None:
        return f"PPL-{100 * (order.target_ppl_ratio - 1):.4g}%"
    return f"a score {100 * (order.target_score_drop or 0):.4g} points below dense"


def overlap(overlap: RuleOverlap) -> Rows:
    """The Jaccard overlap of each pair of rules; `-` where two rules act on different sites."""
    rows = [
        [rule, *("-" if math.isnan(share) else f"{share:.0%}" for share in shares)]
        for rule, shares in zip(overlap.rules, overlap.jaccard, strict=True)
    ]
    return ["rule", *overlap.rules], rows


def _value(order: RuleOrder, value: float) -> str:
    return f"{value / 1e6:,.2f} MB" if order.measure.startswith("bytes") else f"{value:.2%}"
