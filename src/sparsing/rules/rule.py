"""`Rule`: the base class of all rules, which decide which neurons stay active.

A rule names a score and a selection, and converts its one scalar *level* to the number per site that the selection
needs. Every rule is monotone in its level. Its *strength* is the level expressed so that 0 is dense and larger is
sparser; the search for a level steps along the strength.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sparsing.base.registry import Registry
from sparsing.errors import InputError

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
    """Resolution: strengths closer to each other than this drop practically the same neurons."""


class Rule(abc.ABC):
    """Decides which neurons stay active, as a function of one scalar level."""

    name: ClassVar[str]
    """Name in the registry, on the command line and in results."""
    score: ClassVar[str]
    """The score that is cut: a name in `sparsing.rules.scores.SCORES`."""
    level_name: ClassVar[str]
    """Meaning of the level, with its unit, for tables and axes."""
    needs_curves: ClassVar[bool] = False
    """True if the rule needs calibration curves of the model to convert a level."""
    selection: str = "above"
    """How the numbers per site act on the scores: a name in `sparsing.rules.selections.SELECTIONS`."""

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
        curve = curves[self.score]
        ratios = curve.ratio_at(self.values(level, curves, len(curve.thresholds)))
        return float(ratios.mean() if curve.share is None else ratios @ curve.share)

    @abc.abstractmethod
    def reach(self, curves: Curves) -> Reach:
        """The range of strengths in which to search for a level."""

    def _check_range(self, level: float, *, low: float, high: float, open_low: bool, hint: str) -> None:
        inside = np.isfinite(level) and (low < level if open_low else low <= level) and level <= high
        if not inside:
            bracket = f"{'(' if open_low else '['}{low:g}, {high:g}]"
            raise InputError(
                f"level of {self.name} ({self.level_name}) must be in {bracket}, got {level}; {hint}"
            )


def register_rule(rule: type[Rule]) -> type[Rule]:
    """Class decorator that registers a rule under its name.

    Raises:
        ValueError: If another rule has the name.
    """
    return RULES.register(rule.name, rule)


def make_rule(rule: str | Rule, **options: Any) -> Rule:
    """A rule by name, e.g. `make_rule("top_k", scope="sequence")`. A `Rule` is returned as it is.

    Raises:
        InputError: If no rule has the name (the message suggests the nearest name), or if an option is invalid.
    """
    return rule if isinstance(rule, Rule) else RULES[rule](**options)
