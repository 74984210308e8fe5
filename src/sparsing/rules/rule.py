"""`Rule`: the base class of all rules, which decide which neurons stay active.

A rule names a score and a selection, and converts its one scalar *level* to the number per site that the selection
needs. Every rule is monotone in its level. Its *strength* is the level expressed so that 0 is dense and larger is
sparser; the search for a level steps along the strength.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sparsing.base.registry import Registry
from sparsing.errors import InputError
from sparsing.rules.scores import scores_of
from sparsing.rules.selections import SELECTIONS

if TYPE_CHECKING:
    from sparsing.rules.curves import Curves

RULES: Registry[type[Rule]] = Registry("rule")
"""Rules by name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reach:
    """The range of strengths that a search for a level may try."""

    start: float
    """Strength at which the search begins."""
    most: float
    """Largest strength. Larger strengths drop no further neuron."""
    step: float
    """Resolution: levels closer to each other than this drop practically the same neurons."""


class Rule(abc.ABC):
    """Decides which neurons stay active, as a function of one scalar level."""

    name: ClassVar[str]
    """Name in the registry and on the command line."""
    score: str
    """The score that is cut: a name in `sparsing.rules.scores.SCORES`, or two joined by `+` for a joint rule. The class
    has the score of the published rule; an instance may have another."""
    level_name: ClassVar[str]
    """Meaning of the level, with its unit, for tables and axes."""
    needs_curves: ClassVar[bool] = False
    """True if the rule needs calibration curves of the model to convert a level."""
    level_is_error: ClassVar[bool] = False
    """True if the level is the error of the output, the same at all sites. A comparison begins with such rules."""
    usual_exponent: ClassVar[float] = 2.0
    """The rise of the loss is roughly the strength to this power. A search uses it where no error was calibrated."""
    ratio_is_rough: ClassVar[bool] = False
    """True if the curves, which take all tokens together, predict the activation ratio of the rule only roughly."""
    selection: str = "above"
    """How the numbers per site act on the scores: a name in `sparsing.rules.selections.SELECTIONS`."""

    def __init__(self, *, score: str | None = None):
        """Args:
            score: Another score than that of the published rule.

        Raises:
            InputError: If the score is unknown, or if it has a sign and the selection needs magnitudes.
        """
        self.score = score or type(self).score
        scores = scores_of(self.score)
        if not SELECTIONS[self.selection].takes_signs and any(score.signed for score in scores):
            raise InputError(
                f"{self.name} cuts magnitudes, and {self.score!r} is a value with a sign; use it with top_k, griffin"
                " or gaussian_top_k"
            )

    @property
    def label(self) -> str:
        """Name in results: the name, and the score if it is not that of the published rule, e.g. `cett:gate`."""
        return self.name if self.score == type(self).score else f"{self.name}:{self.score}"

    @abc.abstractmethod
    def check(self, level: float) -> None:
        """Checks a level.

        Raises:
            InputError: If `level` is outside the range that the rule allows.
        """

    @abc.abstractmethod
    def values(self, level: float, curves: Curves | None, n_sites: int) -> NDArray[np.float64]:
        """The number per site that the selection needs, shape `(n_sites,)`.

        Raises:
            InputError: If the rule needs curves and `curves` is None or lacks the score of the rule.
        """

    def strength(self, level: float) -> float:
        """The level as a number that is 0 for a dense model and rises as the model gets sparser."""
        return level

    def level(self, strength: float) -> float:
        """The level of this strength; the inverse of `strength`."""
        return strength

    def expected_ratio(self, level: float, curves: Curves) -> float:
        """Activation ratio that the calibration curves predict at this level, mean over sites."""
        return curves[self.score].mean(self.site_ratios(level, curves))

    def site_ratios(self, level: float, curves: Curves) -> NDArray[np.float64]:
        """Share of the neurons of each site that the rule keeps at this level, shape `(n_sites,)`.

        A site that has fewer neurons that are not zero keeps those.
        """
        curve = curves[self.score]
        return curve.ratio_at(self.values(level, curves, len(curve.thresholds)))

    def squared_errors(self, level: float, curves: Curves) -> NDArray[np.float64] | None:
        """Squared CETT of each site that the curves predict at this level, shape `(n_sites,)`.

        The rise of the loss is nearly a weighted sum of them. For a rule that is no threshold per site they are the
        errors of thresholds that keep as many neurons. None if its score has no curve.
        """
        if any(score.name not in curves.scores for score in scores_of(self.score)):
            return None
        curve = curves[self.score]
        if SELECTIONS[self.selection].is_threshold:
            thresholds = self.values(level, curves, len(curve.thresholds))
        else:
            thresholds = curve.threshold_at_ratio(self.site_ratios(level, curves))
        return curve.cett_at(thresholds) ** 2

    @abc.abstractmethod
    def reach(self, curves: Curves) -> Reach:
        """The range of strengths in which to search for a level."""

    def _check_range(self, level: float, *, low: float, high: float, open_low: bool, hint: str) -> None:
        inside = np.isfinite(level) and (low < level if open_low else low <= level) and level <= high
        if not inside:
            bracket = f"{'(' if open_low else '['}{low:g}, {high:g}]"
            raise InputError(
                f"level of {self.label} ({self.level_name}) must be in {bracket}, got {level}; {hint}"
            )


class KeepsShare(Rule):
    """A rule whose level is the share of neurons that it keeps, the same at every site."""

    level_name = "k, share of neurons kept"

    def check(self, level: float) -> None:
        self._check_range(level, low=0, high=1, open_low=True, hint="0.1 keeps a tenth of the neurons")

    def values(self, level: float, curves: Curves | None, n_sites: int) -> NDArray[np.float64]:
        return np.full(n_sites, float(level))

    def strength(self, level: float) -> float:
        # dropped neurons per kept neuron: the rise of the loss is nearly a power of it, also when few neurons are kept
        return (1 - level) / level

    def level(self, strength: float) -> float:
        return 1 / (1 + strength)

    def expected_ratio(self, level: float, curves: Curves) -> float:
        return level

    def site_ratios(self, level: float, curves: Curves) -> NDArray[np.float64]:
        return np.full(len(curves[self.score].thresholds), level)

    def reach(self, curves: Curves) -> Reach:
        return Reach(start=1.0, most=curves.d_ff - 1, step=1 / curves.d_ff)


class DropsShare(Rule):
    """A rule whose level is the share that it drops: its sparsity."""

    needs_curves = True

    def check(self, level: float) -> None:
        self._check_range(level, low=0, high=1, open_low=False, hint="0.5 drops a half")

    def strength(self, level: float) -> float:
        # dropped per kept; at a level of 1 nothing is kept
        return level / (1 - level) if level < 1 else math.inf

    def level(self, strength: float) -> float:
        return strength / (1 + strength) if math.isfinite(strength) else 1.0

    def reach(self, curves: Curves) -> Reach:
        return Reach(start=1.0, most=1e6, step=1e-6)


def register_rule(rule: type[Rule]) -> type[Rule]:
    """Class decorator that registers a rule under its name.

    Raises:
        ValueError: If another rule has the name.
    """
    return RULES.register(rule.name, rule)


def make_rule(rule: str | Rule, **options: Any) -> Rule:
    """A rule by name, e.g. `make_rule("top_k", scope="sequence")`. A `Rule` is returned as it is.

    A score after a colon replaces that of the published rule: `cett:gate` is CETT thresholds on the gate. Two scores
    joined by `+` make a joint rule: `cett:neuron_norm+x` cuts feed-forward neurons by their norm and the inputs of the
    attention linears by their size, at the same level.

    Raises:
        InputError: If no rule has the name (the message suggests the nearest name), or if an option is invalid.
    """
    if isinstance(rule, Rule):
        return rule
    name, _, score = rule.partition(":")
    if name.lower().startswith("ppl") and name not in RULES:
        raise InputError(
            f"{rule!r} is no rule: PPL-p% is the rule cett at the level where perplexity rises by p%; leave out the"
            " rule and ask for the rise (--ppl P, or ppl_ratio in Python)"
        )
    return RULES[name](**options, **({"score": score} if score else {}))
