"""`EarlierSearches`: what the finished searches of other rules on the same tokens teach the next search.

All rules of a comparison run on the same windows of the same model, so a search need not start from nothing. Rules on
the same score cost about the same perplexity at the same activation ratio. The bracketing part differs from the whole
corpus by about the same factor for every rule. The arithmetic noise is that of the model.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparsing.measuring.observation import Observation
from sparsing.measuring.search import Hints, SearchResult
from sparsing.rules.scores import scores_of

if TYPE_CHECKING:
    from sparsing.rules import Reach, Rule
    from sparsing.rules.curves import Curves

_HALVINGS = 12
"""Halvings of the range of strengths in which an activation ratio is looked up; a start needs no more precision."""
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
        self._log_factors: dict[bool, list[float]] = {True: [], False: []}
        """By whether the rules cut inputs of linears, since these hurt other windows."""
        self._noises: list[float] = []

    def add(self, rule: Rule, found: SearchResult, passes: Sequence[Observation]) -> None:
        """Notes a finished search.

        Args:
            passes: The passes that the search ran.
        """
        self._found.append((rule, found))
        if found.ppl_ratio_noise is not None:
            self._noises.append(found.ppl_ratio_noise / found.ppl_ratio)
        if self._part is None:
            return
        near = [one for one in passes if one.on_all and one.mean_rise > 0]
        if near:
            one = min(near, key=lambda one: abs(math.log(one.mean_rise / math.log(found.target_ppl_ratio))))
            part_rise = one.on_windows(self._part).mean_rise
            if part_rise > 0:
                self._log_factors[_cuts_inputs(rule)].append(math.log(one.mean_rise / part_rise))

    def hints(self, rule: Rule) -> Hints:
        """The factor of the part and the noise for a search of this rule."""
        factors = self._log_factors[_cuts_inputs(rule)]
        return Hints(
            part_factor=math.exp(float(np.median(factors))) if factors else 1.0,
            noise=float(np.median(self._noises)) if self._noises else None,
        )

    def reach(self, rule: Rule, ppl_ratio: float) -> Reach:
        """The range of strengths of a search, which begins where the earlier searches suggest."""
        reach = rule.reach(self._curves)
        earlier = [(other, found) for other, found in self._found if found.target_ppl_ratio == ppl_ratio]
        start = self._start(rule, reach, earlier)
        return reach if start is None else dataclasses.replace(reach, start=start)

    def _start(self, rule: Rule, reach: Reach, earlier: Sequence[tuple[Rule, SearchResult]]) -> float | None:
        same_score = [(other, found) for other, found in earlier if other.score == rule.score]
        errors = [found.level for other, found in earlier if other.level_is_error]
        if rule.level_is_error and errors:
            return rule.strength(float(np.median(errors)))
        same_sites = [(other, found) for other, found in earlier if _cuts_inputs(other) == _cuts_inputs(rule)]
        known = same_score or same_sites
        if not known:
            return None
        ratios = [other.expected_ratio(found.level, self._curves) for other, found in known]
        return self._strength_at(rule, reach, float(np.median(ratios)))

    def _strength_at(self, rule: Rule, reach: Reach, ratio: float) -> float:
        """The strength at which the curves predict this activation ratio, roughly."""
        low, high = math.log(reach.start / _WIDEST), math.log(min(reach.start * _WIDEST, reach.most))
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            is_denser = rule.expected_ratio(rule.level(math.exp(middle)), self._curves) > ratio
            low, high = (middle, high) if is_denser else (low, middle)
        return math.exp((low + high) / 2)


def _cuts_inputs(rule: Rule) -> bool:
    """Whether the rule cuts the inputs of linears and not only neurons of feed-forward blocks."""
    return any("linear_input" in score.kinds for score in scores_of(rule.score))
