"""`EarlierSearches`: what the finished searches of other rules on the same tokens teach the next search.

All rules of a comparison run on the same windows of the same model, so a search need not start from nothing. Rules on
the same score cost about the same perplexity at the same activation ratio. The factor between the whole corpus and the
bracketing part is similar for rules that cut the same values. The arithmetic noise is that of the model.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparsing.measuring.even_strengths import EvenStrengths
from sparsing.measuring.observation import Observation
from sparsing.measuring.rise_curve import SLOPE, SlopePrior
from sparsing.measuring.search import Hints, SearchResult, relative_error_of_part
from sparsing.rules.scores import scores_of
from sparsing.rules.selections import SELECTIONS

if TYPE_CHECKING:
    from sparsing.rules import Reach, Rule
    from sparsing.rules.curves import Curves

_HALVINGS = 12
"""Halvings of the range of strengths in which an activation ratio is looked up; a start needs no more precision."""
SLOPE_SD = 0.35
"""Standard deviation of the logarithm of the slope. The slopes of 24 rules on the ReLU and the SiLU demo model have a
median of 2.0 and scatter by 0.3."""
BY_ERROR_SD, BY_LIKE_ERROR_SD = 0.25, 0.3
"""The same of the exponent over even strengths: for thresholds per site, and for rules whose error is that of
thresholds that keep as many neurons. On the demo models and stories260K the exponents are 0.65 to 1.9 times 2, and on
the demo models most of them 0.85 to 1.1 times."""
PART_SD, UNLIKE_PART_SD = 0.2, 0.4
"""Standard deviation of the logarithm of the factor of the part: between rules on the same values, and on others."""
_FACTOR_SD = 0.8
"""Standard deviation of the logarithm of a factor before any rule is known. The rougher a part, the nearer to 1 is the
factor that it teaches: a part with hardly a rise would give any factor."""
_WIDEST = 1e4
"""The range of strengths around the usual start in which an activation ratio is looked up, as a factor."""


class EarlierSearches:
    """Finished searches of a model on a corpus."""

    def __init__(self, curves: Curves, part: NDArray[np.int64] | None):
        """Args:
        part: Windows of the bracketing part.
        """
        self._curves, self._part = curves, part
        self._found: list[tuple[Rule, SearchResult]] = []
        self._log_factors: list[tuple[Rule, float]] = []
        """Each rule with the logarithm of the factor between the rise on the whole corpus and on the part."""
        self._noises: list[float] = []
        self._log_exponents = [math.log(SLOPE)]
        """Of the rise over even strengths: the expected one, and those that searches with several passes have found."""

    def add(self, rule: Rule, found: SearchResult, passes: Sequence[Observation]) -> None:
        """Notes a finished search.

        Args:
            passes: The passes that the search ran.
        """
        if found.converged:
            self._found.append((rule, found))
        if found.ppl_ratio_noise is not None:
            self._noises.append(found.ppl_ratio_noise / found.ppl_ratio)
        near = [one for one in passes if one.on_all and one.mean_rise > 0]
        if found.stretch is not None and len(near) > 1:
            self._log_exponents.append(math.log(found.exponent))
        if self._part is None:
            return
        if near:
            one = min(near, key=lambda one: abs(math.log(one.mean_rise / math.log(found.target_ppl_ratio))))
            part = one.on_windows(self._part)
            if part.mean_rise > 0 and len(self._part) > 1:
                weight = _FACTOR_SD**2 / (_FACTOR_SD**2 + relative_error_of_part(part) ** 2)
                self._log_factors.append((rule, weight * math.log(one.mean_rise / part.mean_rise)))

    def hints(self, rule: Rule, ppl_ratio: float) -> Hints:
        """The factor of the part, the noise, and the error of the start of a search of this rule."""
        log_factor, part_sd = self._part_factor(rule)
        even = self._even(rule, self.reach(rule, ppl_ratio).start)
        return Hints(
            part_factor=math.exp(log_factor),
            part_sd=part_sd,
            start_sd=self._most_alike(rule, ppl_ratio)[1],
            even=even,
            slope=self._slope(rule, is_known=even is not None),
            noise=float(np.median(self._noises)) if self._noises else None,
        )

    def reach(self, rule: Rule, ppl_ratio: float) -> Reach:
        """The range of strengths of a search, which begins where the earlier searches suggest."""
        reach = rule.reach(self._curves)
        known, _ = self._most_alike(rule, ppl_ratio)
        if not known:
            return reach
        if all(other.level_is_error for other, _ in known) and rule.level_is_error:
            start = rule.strength(float(np.median([found.level for _, found in known])))
        else:
            ratios = [other.expected_ratio(found.level, self._curves) for other, found in known]
            # another value is seldom a better score, so the search comes from the dense side
            is_alike = any(_same_values(rule, other) for other, _ in known)
            start = self._strength_at(rule, reach, float(np.median(ratios) if is_alike else max(ratios)))
        return dataclasses.replace(reach, start=start)

    def _even(self, rule: Rule, start: float) -> EvenStrengths | None:
        """The strengths over which the curve of this rule is expected to be a square."""
        return EvenStrengths.of(rule, start, rule.reach(self._curves).most, self._curves)

    def _slope(self, rule: Rule, *, is_known: bool) -> SlopePrior:
        """What is known of the exponent of the rise, over even strengths if these are known."""
        if not is_known:
            return SlopePrior(median=rule.usual_exponent, log_sd=SLOPE_SD)
        return SlopePrior(
            median=math.exp(float(np.mean(self._log_exponents))),
            log_sd=BY_ERROR_SD if SELECTIONS[rule.selection].is_threshold else BY_LIKE_ERROR_SD,
        )

    def _most_alike(self, rule: Rule, ppl_ratio: float) -> tuple[list[tuple[Rule, SearchResult]], float]:
        """The finished searches for this perplexity ratio of the rules most like this one, and a standard deviation.

        A search of this rule begins at their activation ratio. The standard deviation is that of `log(log(ppl_ratio))`
        there, around the target.
        """
        for is_like, sd in _ALIKE:
            if known := [
                (other, found)
                for other, found in self._found
                if found.target_ppl_ratio == ppl_ratio and is_like(rule, other) and _same_time(rule, other)
            ]:
                return known, sd
        return [], math.inf

    def _part_factor(self, rule: Rule) -> tuple[float, float]:
        """The logarithm of the factor of the part and its standard deviation, from the rules most like this one."""
        for is_like, sd in ((_same_values, PART_SD), (_same_inputs, UNLIKE_PART_SD)):
            if factors := [factor for other, factor in self._log_factors if is_like(rule, other)]:
                return float(np.median(factors)), sd
        return 0.0, UNLIKE_PART_SD

    def _strength_at(self, rule: Rule, reach: Reach, ratio: float) -> float:
        """The strength at which the curves predict this activation ratio, roughly."""
        low, high = math.log(reach.start / _WIDEST), math.log(min(reach.start * _WIDEST, reach.most))
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            is_denser = rule.expected_ratio(rule.level(math.exp(middle)), self._curves) > ratio
            low, high = (middle, high) if is_denser else (low, middle)
        return math.exp((low + high) / 2)


def _same_family(one: Rule, two: Rule) -> bool:
    """Whether two rules differ at most in the scale of their score."""
    related = one.selection == two.selection and (isinstance(one, type(two)) or isinstance(two, type(one)))
    return related and _same_values(one, two)


def _same_error(one: Rule, two: Rule) -> bool:
    """Whether both rules limit the error of the same sites, by other values."""
    return _same_level(one, two) and _same_inputs(one, two)


def _same_level(one: Rule, two: Rule) -> bool:
    """Whether the level of both rules is the error of the output of a site."""
    return one.level_is_error and two.level_is_error


def _same_time(one: Rule, two: Rule) -> bool:
    """Whether both rules or none choose the neurons before they know their values, which needs many more neurons."""
    return SELECTIONS[one.selection].from_prompt == SELECTIONS[two.selection].from_prompt


def _same_score(one: Rule, two: Rule) -> bool:
    return one.score == two.score


def _same_values(one: Rule, two: Rule) -> bool:
    """Whether two rules cut the same activations, so that they hurt the same windows."""
    return _values(one) == _values(two)


def _values(rule: Rule) -> set[tuple[str, bool]]:
    return {(score.value, "linear_input" in score.kinds) for score in scores_of(rule.score)}


def _same_inputs(one: Rule, two: Rule) -> bool:
    """Whether both rules or none cut the inputs of linears and not only neurons of feed-forward blocks."""
    return _cuts_inputs(one) == _cuts_inputs(two)


def _cuts_inputs(rule: Rule) -> bool:
    return any("linear_input" in score.kinds for score in scores_of(rule.score))


_ALIKE = (
    (_same_family, 0.2),
    (_same_score, 0.35),
    (_same_values, 0.35),
    (_same_error, 0.6),
    (_same_inputs, 1.0),
    (_same_level, 1.0),
)
"""How two rules may be alike, the most alike first.

The number is the standard deviation of `log(log(ppl_ratio))` at the activation ratio of the other rule, around the
target."""
