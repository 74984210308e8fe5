"""The tables of a comparison of rules: their order at one cost in perplexity, and how much their active sets agree."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

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


def orders(several: Sequence[RuleOrder]) -> Rows:
    """One row per order: the cost, the measure, and the rules with the probability that the next one has more."""
    return ["at", "by", "order"], [[cost(one), one.measure, _line(one)] for one in several]


def _line(order: RuleOrder) -> str:
    """For example `cett 29.83% < (61%) top_k:h 30.10%`."""
    parts = [f"{rule} {_value(order, value)}" for rule, value in zip(order.rules, order.values, strict=True)]
    line = parts[0]
    for place, part in enumerate(parts[1:]):
        line += f" < ({order.probability[place, place + 1]:.0%}) {part}"
    return line


def cost(order: RuleOrder) -> str:
    """The cost at which the rules are compared, e.g. `PPL-1%`."""
    if order.target_ppl_ratio is not None:
        return f"PPL-{100 * (order.target_ppl_ratio - 1):.4g}%"
    drop = 100 * (order.target_score_drop or 0)
    return f"a score {drop:.4g} {'point' if drop == 1 else 'points'} below dense"


def overlap(overlap: RuleOverlap) -> Rows:
    """The Jaccard overlap of each pair of rules; `-` where two rules act on different sites."""
    rows = [
        [rule, *("-" if math.isnan(share) else f"{share:.0%}" for share in shares)]
        for rule, shares in zip(overlap.rules, overlap.jaccard, strict=True)
    ]
    return ["rule", *overlap.rules], rows


def _value(order: RuleOrder, value: float) -> str:
    return f"{value / 1e6:,.2f} MB" if order.measure.startswith("bytes") else f"{value:.2%}"
