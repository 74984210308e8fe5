"""`ExpectedRatios`: how the activation ratio of a rule is expected to change with its level.

The calibration curves predict it. Where the passes of a search show that the curves are wrong, these decide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from sparsing.measuring.even_strengths import SAME_STRENGTHS, EvenStrengths
from sparsing.measuring.observation import Observation
from sparsing.rules.selections import SELECTIONS, PromptSelection

if TYPE_CHECKING:
    from sparsing.rules import Rule
    from sparsing.rules.curves import Curves
    from sparsing.text.corpus import Corpus

_LEAST_SPREAD = 0.1
"""Range of the logarithms of expected activation ratios at which passes show how wrong the curves are."""
_CURVES_ERROR = 0.15
"""Deviation of the power from 1 up to which the curves are kept: they are smoother than few passes."""

Floats = NDArray[np.float64]


class ExpectedRatios:
    """The activation ratios that the curves of a corpus predict."""

    def __init__(self, curves: Curves, corpus: Corpus):
        self._curves, self._corpus = curves, corpus
        self._factors: dict[tuple[str, str, float, EvenStrengths], tuple[Floats, Floats]] = {}
        self._prompts: dict[str, float] = {}

    def factor(
        self,
        rule: Rule,
        level: float,
        shift: Floats,
        *,
        even: EvenStrengths = SAME_STRENGTHS,
        passes: Sequence[Observation] = (),
    ) -> Floats:
        """The factor by which the activation ratio changes if log(strength) changes by `shift`, same shape as `shift`.

        It is that of the curves, to the power by which the passes differ from the curves.

        Args:
            even: Makes `shift` that of the logarithm of the even strength.
            passes: Of the search of this rule.
        """
        key = (rule.label, rule.selection, level, even)
        if key not in self._factors:
            self._factors[key] = self._table(rule, level, even)
        return np.interp(shift, *self._factors[key]) ** self._power(rule, passes)

    def at(self, rule: Rule, level: float) -> float:
        """Activation ratio that the curves predict for the counted tokens, some of which may be a dense prompt."""
        ratio = rule.expected_ratio(level, self._curves)
        if not SELECTIONS[rule.selection].from_prompt:
            return ratio
        if rule.selection not in self._prompts:
            self._prompts[rule.selection] = self._prompt_share(rule)
        prompt = self._prompts[rule.selection]
        return prompt * rule.expected_ratio(rule.level(0.0), self._curves) + (1 - prompt) * ratio

    def needs_pass(self, rule: Rule, level: float, passes: Sequence[Observation]) -> bool:
        """Whether a pass at this level would show how the ratio of the rule changes, and the passes do not.

        Only for rules whose activation ratio the curves predict roughly.
        """
        if not rule.ratio_is_rough:
            return False
        expected = [self.at(rule, one.level) for one in passes if one.level is not None and one.ratio]
        return not _spread(expected) and _spread([*expected, self.at(rule, level)])

    def _power(self, rule: Rule, passes: Sequence[Observation]) -> float:
        """By which power of the activation ratios that the curves predict those of the passes grow.

        The curves take all tokens together. For the mass of a token (`top_p`) that is rough, since few tokens have most
        of the mass.
        """
        pairs = [
            (self.at(rule, one.level), one.ratio) for one in passes if one.level is not None and one.ratio
        ]
        if not _spread([one for one, _ in pairs]):
            return 1.0
        expected, measured = np.log(np.maximum(np.array(pairs), 1e-12)).T
        around = expected - expected.mean()
        power = float(around @ measured / (around @ around))
        return power if abs(power - 1) > _CURVES_ERROR and power > 0 else 1.0

    def _table(self, rule: Rule, level: float, even: EvenStrengths) -> tuple[Floats, Floats]:
        """Shifts of log(even strength) from this level, rising, and the factor of the activation ratio at each."""
        strength, most = even.even(rule.strength(level)), even.even(rule.reach(self._curves).most)
        # up to the sparsest level, which stands for resamples whose perplexity does not rise
        grid = np.append(np.linspace(-2, 2, 41), max(2.1, math.log(most / strength)) if strength > 0 else 2.1)
        evens = [strength, *(min(strength * math.exp(step), most) for step in grid)]
        strengths = [even.strength(one) for one in evens]
        ratios = np.array([self.at(rule, rule.level(one)) for one in strengths])
        return grid, ratios[1:] / max(ratios[0], 1e-12)

    def _prompt_share(self, rule: Rule) -> float:
        """Share of the counted tokens that are a dense prompt, for a rule that chooses a set from it."""
        selection = cast("PromptSelection", SELECTIONS[rule.selection])
        batches = self._corpus.batches(64)
        prompt = sum(int((selection.prompt_of(b.real) & b.counted).sum()) for b in batches)
        return prompt / self._corpus.num_tokens


def _spread(ratios: Sequence[float]) -> bool:
    """Whether ratios differ enough to show how others change with them."""
    return len(ratios) > 1 and max(ratios) > math.exp(_LEAST_SPREAD) * max(min(ratios), 1e-12)
