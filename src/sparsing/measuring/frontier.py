"""The fair comparison of rules: perplexity against activation ratio, the same tokens for all (Sparsing Law, 4.1).

Each rule is searched for PPL-1%, PPL-5% and the highest perplexity ratio, so its figures at these levels are measured
and equal those of `measure`. Further levels lie below and between them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparsing.base.provenance import Provenance
from sparsing.base.results import Result
from sparsing.rules import Rule, make_rule

if TYPE_CHECKING:
    from sparsing.measuring.search import SearchResult
    from sparsing.measuring.subject import Subject

LEAST_SHARE = 0.02
"""What the first level of a rule costs, as a share of the highest log(ppl_ratio)."""
SEARCHED = (1.01, 1.05)
"""Perplexity ratios at which each rule is measured, besides the highest one."""

Interval = tuple[float, float]
Floats = NDArray[np.float64]


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
    target_ppl_ratio: float | None = None
    """The perplexity ratio for which the level was searched; None for the levels between."""


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
        """Activation ratio of the rule at this perplexity ratio: measured if the ratio was searched for.

        Otherwise interpolated between two levels; NaN outside of the measured levels.
        """
        for point in self.of(rule):
            if point.target_ppl_ratio is not None and math.isclose(point.target_ppl_ratio, ppl_ratio):
                return point.activation_ratio
        points = sorted((point.ppl_ratio, point.activation_ratio) for point in self.of(rule))
        cost, ratio = (np.array(column) for column in zip(*points, strict=True))
        outside = ppl_ratio < cost[0] or ppl_ratio > cost[-1]
        return math.nan if outside else float(np.interp(ppl_ratio, cost, ratio))


def compare(
    subject: Subject, rules: Sequence[str | Rule], *, ppl_ratio: float = 1.1, steps: int = 6
) -> RuleComparison:
    """Measure each rule at `steps` levels (at least those of `SEARCHED`) up to the one that costs `ppl_ratio`.

    Raises:
        InputError: unknown rule (with a suggestion), a target of 1 or below.
        TargetError: a rule that never costs that much.
    """
    points = [point for rule in rules for point in _frontier(subject, make_rule(rule), ppl_ratio, steps)]
    return RuleComparison(points=tuple(points), provenance=subject.provenance)


def _frontier(subject: Subject, rule: Rule, ppl_ratio: float, steps: int) -> list[FrontierPoint]:
    targets = [*(target for target in SEARCHED if target < ppl_ratio), ppl_ratio]
    found = [subject.search(rule, target) for target in targets]
    searched = [_point(subject, rule, result.level, result) for result in found]
    between = _strengths_between(rule, found, ppl_ratio, max(0, steps - len(found)))
    others = [_point(subject, rule, rule.level(strength)) for strength in between]
    return sorted([*searched, *others], key=lambda point: rule.strength(point.level))


def _strengths_between(
    rule: Rule, found: Sequence[SearchResult], ppl_ratio: float, count: int
) -> list[float]:
    """`count` strengths whose log(ppl_ratio) are about evenly spaced in the logarithm, apart from those in `found`."""
    ordered = sorted(found, key=lambda result: result.ppl_ratio)
    rise: Floats = np.log([math.log(result.ppl_ratio) for result in ordered])
    strength: Floats = np.log([rule.strength(result.level) for result in ordered])
    wanted: Floats = np.log(np.geomspace(LEAST_SHARE, 1, count + 1)[:-1] * math.log(ppl_ratio))
    # log(ppl_ratio) goes like strength ** slope below the searched levels, where only the slope there is known
    below = strength[0] + (wanted - rise[0]) / ordered[0].slope
    between: Floats = np.interp(wanted, rise, strength)
    return [float(np.exp(b if w < rise[0] else i)) for w, b, i in zip(wanted, below, between, strict=True)]


def _point(subject: Subject, rule: Rule, level: float, search: SearchResult | None = None) -> FrontierPoint:
    """The rule at a level; with the search that found it, the interval contains the uncertainty of the level."""
    target = search.target_ppl_ratio if search else None
    outcome = subject.outcome(subject.thresholds(rule, level, target), rule if search else None, search)
    return FrontierPoint(rule=rule.label, level=float(level), target_ppl_ratio=target, **outcome)
