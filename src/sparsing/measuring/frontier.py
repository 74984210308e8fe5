"""The fair comparison of rules: perplexity against activation ratio, the same tokens for all (Sparsing Law, 4.1).

The levels of a rule are spread up to the one at the highest perplexity ratio asked for.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sparsing.base.provenance import Provenance
from sparsing.base.results import Result
from sparsing.rules import Rule, make_rule

if TYPE_CHECKING:
    from sparsing.measuring.subject import Subject

LEAST_SHARE = 0.02
"""What the first level of a rule costs, as a share of the highest log(ppl_ratio)."""
END_TOLERANCE = 2e-3
"""The last level need not be exact: what is drawn is where it was measured to be."""

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrontierPoint(Result):
    """A rule at one level; measured on all tokens of the corpus."""

    kind = "frontier_point"

    rule: str
    level: float
    activation_ratio: float
    activation_ratio_interval: Interval | None
    ppl_ratio: float
    ppl_ratio_interval: Interval | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class RuleComparison(Result):
    """Frontiers of several rules on one model and corpus."""

    kind = "rule_comparison"
    former_kind = "Comparison"

    points: tuple[FrontierPoint, ...]
    """By rule, then from dense to sparse."""
    provenance: Provenance

    def rules(self) -> list[str]:
        """The rules compared, in the order they were asked for."""
        return list(dict.fromkeys(point.rule for point in self.points))

    def of(self, rule: str) -> list[FrontierPoint]:
        """The points of one rule."""
        return [point for point in self.points if point.rule == rule]

    def ratio_at(self, rule: str, ppl_ratio: float) -> float:
        """Activation ratio of the rule at this perplexity ratio, by linear interpolation.

        NaN outside of what was measured, but for the tolerance of the last level.
        """
        points = sorted((point.ppl_ratio, point.activation_ratio) for point in self.of(rule))
        cost, ratio = (np.array(column) for column in zip(*points, strict=True))
        outside = ppl_ratio < cost[0] or ppl_ratio > cost[-1] + END_TOLERANCE
        return math.nan if outside else float(np.interp(ppl_ratio, cost, ratio))


def compare(
    subject: Subject, rules: Sequence[str | Rule], *, ppl_ratio: float = 1.1, steps: int = 6
) -> RuleComparison:
    """Measure each rule at `steps` levels up to the one that costs `ppl_ratio`.

    Raises:
        InputError: unknown rule (with a suggestion), a target of 1 or below.
        TargetError: a rule that never costs that much.
    """
    points = [point for rule in rules for point in _frontier(subject, make_rule(rule), ppl_ratio, steps)]
    return RuleComparison(points=tuple(points), provenance=subject.provenance)


def _frontier(subject: Subject, rule: Rule, ppl_ratio: float, steps: int) -> list[FrontierPoint]:
    found = subject.search(rule, ppl_ratio, tolerance=END_TOLERANCE)
    most = rule.strength(found.level)
    # log(ppl_ratio) goes like strength ** slope, so these levels cost equal factors of it
    shares = np.geomspace(LEAST_SHARE, 1, steps)[:-1] ** (1 / found.slope)
    levels = [*(rule.level(most * share) for share in shares), found.level]
    return [_point(subject, rule, level) for level in levels]


def _point(subject: Subject, rule: Rule, level: float) -> FrontierPoint:
    outcome = subject.outcome(subject.thresholds(rule, level))
    return FrontierPoint(rule=rule.name, level=float(level), **outcome)
