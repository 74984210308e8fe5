"""The fair comparison of rules: perplexity against activation ratio, the same tokens for all (Sparsing Law, 4.1).

Each rule is searched for PPL-1%, PPL-5% and the highest perplexity ratio. Its figures there rest on a pass over all
tokens. They are those of the pass if `measure` would accept it; otherwise they are moved along the curve of the search
to the target. The distance is small, and the intervals contain its error. Stages of a pass may have run at several
levels (`stages.py`). Further levels lie below and between them.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparsing.base.provenance import Provenance
from sparsing.base.results import Result
from sparsing.errors import InputError, TargetError, WeakResultWarning
from sparsing.measuring.even_strengths import SAME_STRENGTHS, EvenStrengths
from sparsing.measuring.intervals import effective_units
from sparsing.measuring.rule_order import RuleOrder, RuleOverlap, order_rules
from sparsing.measuring.savings import Savings
from sparsing.rules import Rule, make_rule

if TYPE_CHECKING:
    from sparsing.measuring.search_result import SearchResult
    from sparsing.measuring.subject import Subject
    from sparsing.rules.thresholds import Thresholds

LEAST_SHARE = 0.02
"""What the first level of a rule costs, as a share of the highest log(ppl_ratio)."""
SEARCHED = (1.01, 1.05)
"""Perplexity ratios at which each rule is measured, besides the highest one."""

Interval = tuple[float, float]
Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrontierPoint(Result):
    """A rule at one level; rests on a pass over all tokens of the corpus."""

    kind = "frontier_point"

    rule: str
    level: float
    activation_ratio: float
    activation_ratio_interval: Interval | None
    ppl_ratio: float
    ppl_ratio_interval: Interval | None
    target_ppl_ratio: float | None = None
    """The perplexity ratio for which the level was searched; None for the levels between."""
    converged: bool = True
    """False if no level meets the target; the figures are then those of the nearest level."""
    measured_ppl_ratio: float | None = None
    """Perplexity ratio of the pass. It is not `ppl_ratio` if the figures were moved; None for the levels between. The
    stages of a pass may have run at several levels (`stages.py`); it is then that of their mean level."""
    savings: Savings | None = None
    """Weights that a token reads; None for the levels between. If the figures were moved, groups and unions were moved
    from the level of the pass, or of its last stage (`Savings.moved_to`)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RuleComparison(Result):
    """Frontiers of several rules on one model and corpus."""

    kind = "rule_comparison"
    former_kind = "Comparison"

    points: tuple[FrontierPoint, ...]
    """By rule, then from dense to sparse."""
    orders: tuple[RuleOrder, ...] = ()
    """The order of the rules at each perplexity ratio that was searched for, by activation ratio and by bytes."""
    overlap: RuleOverlap | None = None
    """Of the active sets at the lowest perplexity ratio that was searched for; None if there is one rule."""
    provenance: Provenance
    num_tokens: int | None = None
    """Tokens on which the rules were compared; None in files of earlier versions."""

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
    """Measure each rule at `steps` levels up to the level that costs `ppl_ratio`, `SEARCHED` included.

    A rule that never costs that much is left out, with a `WeakResultWarning`.

    Raises:
        InputError: unknown rule (with a suggestion), two rules with the same label, a target of 1 or below.
        TargetError: no rule ever costs that much.
    """
    targets, made = searched_targets(ppl_ratio), [make_rule(rule) for rule in rules]
    check_labels(made)
    found = _search_all(subject, made, targets)
    lines = [
        _frontier(subject, rule, found[rule.label], targets[-1], steps)
        for rule in made
        if rule.label in found
    ]
    searched = [[line.searched[place] for line in lines] for place in range(len(targets))]
    several = len(lines) > 1
    return RuleComparison(
        points=tuple(point for line in lines for point in line.points),
        orders=tuple(order for own in searched for order in _orders(subject, own)) if several else (),
        overlap=_overlap(subject, searched[0]) if several else None,
        provenance=subject.provenance,
        num_tokens=subject.corpus.num_tokens,
    )


def check_labels(rules: Sequence[Rule]) -> None:
    """Checks that no two rules have the same label, by which a comparison tells them apart.

    Raises:
        InputError: If two have.
    """
    labels = [rule.label for rule in rules]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise InputError(
            f"the same rule is given more than once: {', '.join(twice)} (cett:neuron_norm, for example, is cett);"
            " give each rule once"
        )


def searched_targets(ppl_ratio: float) -> list[float]:
    """The perplexity ratios for which `compare` searches a level of each rule, if `ppl_ratio` is the highest."""
    return [*(target for target in SEARCHED if target < ppl_ratio), ppl_ratio]


@dataclasses.dataclass(frozen=True)
class _Searched:
    """A rule at a perplexity ratio that was searched for."""

    rule: Rule
    found: SearchResult
    thresholds: Thresholds
    point: FrontierPoint


@dataclasses.dataclass(frozen=True)
class _Frontier:
    """The points of one rule, from dense to sparse, and what was searched, by rising perplexity ratio."""

    points: list[FrontierPoint]
    searched: list[_Searched]


def _search_all(
    subject: Subject, rules: Sequence[Rule], targets: Sequence[float]
) -> dict[str, list[SearchResult]]:
    """The levels of each rule that reaches all targets, by its label."""
    # errors first: they are the same at all sites, so they show how much all of them hurt together
    ordered = sorted(rules, key=lambda rule: not rule.level_is_error)
    found: dict[str, list[SearchResult]] = {}
    for rule in ordered:
        try:
            found[rule.label] = [subject.search(rule, target, compared=True) for target in targets]
        except TargetError as error:
            if rule is ordered[-1] and not found:
                raise
            warnings.warn(
                f"{rule.label} is left out of the comparison: {error}", WeakResultWarning, stacklevel=3
            )
    for label, results in found.items():
        for result in results:
            if not result.converged:
                warnings.warn(
                    f"{label}: no level meets the target ppl_ratio {result.target_ppl_ratio:g}; its figures are those"
                    f" of the nearest level, which has {result.ppl_ratio:.5f}. Give more text",
                    WeakResultWarning,
                    stacklevel=3,
                )
    return found


def _frontier(
    subject: Subject, rule: Rule, found: Sequence[SearchResult], most: float, steps: int
) -> _Frontier:
    """Args:
    most: The highest perplexity ratio.
    """
    searched = [_searched(subject, rule, result) for result in found]
    even = subject.even_strengths(rule, found[0])
    between = _strengths_between(rule, found, most, max(0, steps - len(found)), even)
    others = [_point(subject, rule, rule.level(strength)) for strength in between]
    points = [*(one.point for one in searched), *others]
    return _Frontier(sorted(points, key=lambda point: rule.strength(point.level)), searched)


def _searched(subject: Subject, rule: Rule, found: SearchResult) -> _Searched:
    """The rule at the level that was found; the interval contains the uncertainty of the level."""
    thresholds = subject.thresholds(rule, found.level, found.target_ppl_ratio)
    outcome = subject.outcome(thresholds, rule, found)
    # a pass at one level that meets the target has the figures that `measure` reports for it
    # so has the nearest pass of a rule that jumps over the target, since no curve leads there
    level, moved, savings = found.level, found.ppl_ratio, subject.savings(thresholds, compared=True)
    if found.converged and not found.meets_target and found.fitted_strength is not None:
        level, moved = rule.level(found.fitted_strength), found.target_ppl_ratio
        savings = savings.moved_to(subject.ratios_at_target(rule, found, thresholds))
    point = FrontierPoint(
        rule=rule.label,
        level=level,
        activation_ratio=float(savings.activation_ratio.mean()),
        activation_ratio_interval=outcome["activation_ratio_interval"],
        ppl_ratio=moved,
        ppl_ratio_interval=_moved(outcome["ppl_ratio_interval"], found.ppl_ratio, moved),
        target_ppl_ratio=found.target_ppl_ratio,
        converged=found.converged,
        measured_ppl_ratio=found.ppl_ratio,
        savings=savings,
    )
    return _Searched(rule, found, thresholds, point)


def _moved(interval: Interval | None, measured: float, moved: float) -> Interval | None:
    """The interval of a perplexity ratio whose sampling error grows in proportion to its logarithm."""
    if interval is None or measured <= 1:
        return interval
    power = math.log(moved) / math.log(measured)
    return interval[0] ** power, interval[1] ** power


def _orders(subject: Subject, several: Sequence[_Searched]) -> Iterator[RuleOrder]:
    """The order of the rules by activation ratio, and by the bytes that a token reads."""
    if subject.corpus.n_windows < 2:
        return
    target, units = several[0].found.target_ppl_ratio, effective_units(subject.corpus.n_windows)
    ratios = {
        one.point.rule: subject.resampled_ratios(one.rule, one.found, one.thresholds, seed=seed)
        for seed, one in enumerate(several, 1)
    }
    yield order_rules(
        "activation ratio",
        target,
        {one.point.rule: one.point.activation_ratio for one in several},
        {rule: values.mean(1) for rule, values in ratios.items()},
        units,
    )
    savings = {one.point.rule: one.point.savings for one in several if one.point.savings is not None}
    for measure, known in (("bytes, score computed first", False), ("bytes, active neurons known", True)):
        yield order_rules(
            measure,
            target,
            {rule: own.active_bytes(known=known) for rule, own in savings.items()},
            {rule: own.bytes_read_each(ratios[rule], known=known) for rule, own in savings.items()},
            units,
        )


def _overlap(subject: Subject, several: Sequence[_Searched]) -> RuleOverlap:
    return RuleOverlap(
        target_ppl_ratio=several[0].found.target_ppl_ratio,
        rules=tuple(one.point.rule for one in several),
        jaccard=subject.overlap([one.thresholds for one in several]),
    )


def _strengths_between(
    rule: Rule,
    found: Sequence[SearchResult],
    ppl_ratio: float,
    count: int,
    even: EvenStrengths = SAME_STRENGTHS,
) -> list[float]:
    """`count` strengths whose log(ppl_ratio) are about evenly spaced in the logarithm, apart from those in `found`.

    Results without a rise of perplexity, which a few tokens may give, have no logarithm and are left out. Without any
    other result there are no levels between.
    """
    rising = [result for result in found if result.ppl_ratio > 1 and rule.strength(result.level) > 0]
    if not rising:
        return []
    ordered = sorted(rising, key=lambda result: result.ppl_ratio)
    rise: Floats = np.log([math.log(result.ppl_ratio) for result in ordered])
    strength: Floats = np.log([even.even(rule.strength(result.level)) for result in ordered])
    wanted: Floats = np.log(np.geomspace(LEAST_SHARE, 1, count + 1)[:-1] * math.log(ppl_ratio))
    # below the searched levels log(ppl_ratio) is a power of the even strength, with the exponent that it has there
    below = strength[0] + (wanted - rise[0]) / ordered[0].exponent
    between: Floats = np.interp(wanted, rise, strength)
    logs = [b if w < rise[0] else i for w, b, i in zip(wanted, below, between, strict=True)]
    return [even.strength(float(np.exp(one))) for one in logs]


def _point(subject: Subject, rule: Rule, level: float) -> FrontierPoint:
    outcome = subject.outcome(subject.thresholds(rule, level))
    return FrontierPoint(rule=rule.label, level=float(level), **outcome)
