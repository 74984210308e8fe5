"""`EarlierSearches`: what the finished searches of other rules on the same tokens teach the next search.

All rules of a comparison run on the same windows of the same model, so a search need not start from nothing. How much
the errors of a site hurt is the same for all rules (`expected_rise.py`). The factor between the whole corpus and the
bracketing part is similar for rules that cut the same values. The arithmetic noise is that of the model.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparsing.measuring.even_strengths import EvenStrengths
from sparsing.measuring.expected_rise import ExpectedRise
from sparsing.measuring.hints import UNKNOWN_START_SD, Hints, relative_error_of_part
from sparsing.measuring.observation import Observation
from sparsing.measuring.rise_curve import SLOPE, SlopePrior
from sparsing.measuring.search_result import SearchResult
from sparsing.rules.scores import cuts_inputs, scores_of
from sparsing.rules.selections import SELECTIONS

if TYPE_CHECKING:
    from sparsing.rules import Reach, Rule
    from sparsing.rules.curves import Curves

_HALVINGS = 12
"""Halvings of the range of strengths in which a start is looked up; a start needs no more precision."""
SLOPE_SD = 0.35
"""Standard deviation of the logarithm of the slope. The slopes of 24 rules on the ReLU and the SiLU demo model have a
median of 2.0 and scatter by 0.3."""
BY_ERROR_SD, BY_LIKE_ERROR_SD = 0.18, 0.25
"""The same of the exponent over even strengths, around the mean of the model: for thresholds per site, and for rules
whose error is that of thresholds that keep as many neurons. On the demo models and stories260K the exponents scatter by
0.07 to 0.2 around means of 0.9, 1.04 and 1.5 times 2."""
MEAN_EXPONENT_SD = 0.18
"""Standard deviation of the logarithm of the mean of a model before it is known."""
MEASURED_SLOPE_SD = 0.15
"""Largest standard deviation of the logarithm of a slope that passes over the part have shown: without them it is
larger."""
ENOUGH_EXPONENTS = 5
"""Number of exponents that show the mean of a model, the expected one included."""
PART_SD, UNLIKE_PART_SD = 0.15, 0.3
"""Standard deviation of the logarithm of the factor of the part: between rules on the same values, and on others."""
_FACTOR_SD = 0.3
"""Standard deviation of the logarithm of the mean factor of these rules before any is known. On the SiLU demo model
and stories260K all rules on `h` have about the same factor. On SmolLM2 each rule hurts other windows, and a factor that
one rule shows says nothing about the next."""
_WIDEST = 1e4
"""The range of strengths around the usual start in which a start is looked up, as a factor."""


class EarlierSearches:
    """Finished searches of a model on a corpus."""

    def __init__(self, curves: Curves, part: NDArray[np.int64] | None):
        """Args:
        part: Windows of the bracketing part.
        """
        self._curves, self._part = curves, part
        self._expected = ExpectedRise(curves)
        self._found: list[tuple[Rule, SearchResult]] = []
        self._log_factors: list[tuple[Rule, float, float]] = []
        """Each rule with the logarithm of the factor between the rise on the whole corpus and on the part, and its
        standard error."""
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
            at_target = found.level if found.fitted_strength is None else rule.level(found.fitted_strength)
            self._expected.add(rule, at_target, found.target_ppl_ratio)
        if found.ppl_ratio_noise is not None:
            self._noises.append(found.ppl_ratio_noise / found.ppl_ratio)
        near = [one for one in passes if one.on_all and one.mean_rise > 0]
        shown_on_part = len(passes) > 1 and 0 < found.slope_sd < MEASURED_SLOPE_SD * found.slope
        if found.stretch is not None and (len(near) > 1 or shown_on_part):
            self._log_exponents.append(math.log(found.exponent))
        if self._part is None:
            return
        if near:
            one = min(near, key=lambda one: abs(math.log(one.mean_rise / math.log(found.target_ppl_ratio))))
            part = one.on_windows(self._part)
            if part.mean_rise > 0 and len(self._part) > 1:
                log_factor = math.log(one.mean_rise / part.mean_rise)
                self._log_factors.append((rule, log_factor, relative_error_of_part(part)))

    def start(self, rule: Rule, ppl_ratio: float) -> tuple[Reach, Hints]:
        """The range of strengths of a search, which begins where the target is expected, and what else is known."""
        reach, start_sd = self._reach(rule, ppl_ratio)
        log_factor, part_sd = self._part_factor(rule)
        even = EvenStrengths.of(rule, reach.start, reach.most, self._curves, self.weights(rule))
        return reach, Hints(
            part_factor=math.exp(log_factor),
            part_sd=part_sd,
            start_sd=start_sd,
            even=even,
            slope=self._slope(rule, is_known=even is not None),
            wants_slope=even is not None and len(self._log_exponents) < ENOUGH_EXPONENTS,
            noise=float(np.median(self._noises)) if self._noises else None,
        )

    def weights(self, rule: Rule) -> NDArray[np.float64] | None:
        """How much an error at each site hurts, up to a common factor; None if the rule has no curve."""
        return self._expected.weights(rule)

    def _reach(self, rule: Rule, ppl_ratio: float) -> tuple[Reach, float]:
        """The range of a search and the standard deviation of `log(log(ppl_ratio))` at its start, around the target."""
        reach, target = rule.reach(self._curves), math.log(math.log(ppl_ratio))

        def reaches(level: float) -> bool:
            expected = self._expected.at(rule, level, ppl_ratio)
            return expected is not None and expected[0] >= target

        start = self._first_strength(rule, reach, reaches)
        if expected := self._expected.at(rule, rule.level(start), ppl_ratio):
            return dataclasses.replace(reach, start=start), expected[1]
        # without an error, the activation ratio of the rules that choose neurons at the same time
        ratios = [
            other.expected_ratio(found.level, self._curves)
            for other, found in self._found
            if found.target_ppl_ratio == ppl_ratio and _same_time(rule, other) and _same_inputs(rule, other)
        ]
        if not ratios:
            return reach, UNKNOWN_START_SD
        # a rule without an error is seldom better than others, so the search comes from the dense side
        start = self._first_strength(
            rule, reach, lambda level: rule.expected_ratio(level, self._curves) <= max(ratios)
        )
        return dataclasses.replace(reach, start=start), UNKNOWN_START_SD

    @staticmethod
    def _first_strength(rule: Rule, reach: Reach, is_beyond: Callable[[float], bool]) -> float:
        """The smallest strength whose level is beyond a limit, roughly."""
        low, high = math.log(reach.start / _WIDEST), math.log(min(reach.start * _WIDEST, reach.most))
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if is_beyond(rule.level(math.exp(middle))) else (middle, high)
        return math.exp((low + high) / 2)

    def _slope(self, rule: Rule, *, is_known: bool) -> SlopePrior:
        """What is known of the exponent of the rise, over even strengths if these are known."""
        if not is_known:
            return SlopePrior(median=rule.usual_exponent, log_sd=SLOPE_SD)
        sd = BY_ERROR_SD if SELECTIONS[rule.selection].is_threshold else BY_LIKE_ERROR_SD
        return SlopePrior(
            median=math.exp(float(np.mean(self._log_exponents))),
            log_sd=math.hypot(sd, MEAN_EXPONENT_SD / math.sqrt(len(self._log_exponents))),
        )

    def _part_factor(self, rule: Rule) -> tuple[float, float]:
        """The logarithm of the factor of the part and its standard deviation, from the rules most like this one."""
        known, sd = [one for one in self._log_factors if _same_values(rule, one[0])], PART_SD
        if not known:
            known, sd = [one for one in self._log_factors if _same_inputs(rule, one[0])], UNLIKE_PART_SD
        # normal distributions: a mean factor, from which each rule differs, and which the part of each shows with error
        precisions = [1 / (sd**2 + error**2) for _, _, error in known]
        precision = 1 / _FACTOR_SD**2 + sum(precisions)
        mean = sum(p * factor for p, (_, factor, _) in zip(precisions, known, strict=True)) / precision
        return mean, math.hypot(sd, precision**-0.5)


def _same_time(one: Rule, two: Rule) -> bool:
    """Whether both rules or none choose the neurons before they know their values, which needs many more neurons."""
    return SELECTIONS[one.selection].from_prompt == SELECTIONS[two.selection].from_prompt


def _same_values(one: Rule, two: Rule) -> bool:
    """Whether two rules cut the same activations, so that they hurt the same windows."""
    return _values(one) == _values(two)


def _values(rule: Rule) -> set[tuple[str, bool]]:
    return {(score.value, "linear_input" in score.kinds) for score in scores_of(rule.score)}


def _same_inputs(one: Rule, two: Rule) -> bool:
    """Whether both rules or none cut the inputs of linears and not only neurons of feed-forward blocks."""
    return cuts_inputs(one.score) == cuts_inputs(two.score)
