"""`Rule`: what every rule has in common.

A rule names a score and a selection, and turns its one scalar *level* into the number per site that the
selection takes. Every rule is monotone in its level. `strength` is the level turned so that 0 is dense and
larger is sparser; the search walks along it.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sparsing.base.registry import Registry
from sparsing.errors import InputError

if TYPE_CHECKING:
    from sparsing.rules.curves import Curves

RULES: Registry[type[Rule]] = Registry("rule")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reach:
    """Where a search along `strength` begins and how far it goes."""

    start: float
    most: float
    """Nothing more is dropped beyond this strength."""
    step: float
    """Strengths nearer to each other than this drop the same neurons for all practical purposes."""


class Rule(abc.ABC):
    """Decides which neurons stay active, as a function of one scalar level."""

    name: ClassVar[str]
    score: ClassVar[str]
    """What is cut: a name in `sparsing.rules.scores.SCORES`."""
    level_name: ClassVar[str]
    """What the level is, with its unit, for tables and axes."""
    needs_curves: ClassVar[bool] = False
    """True if a level means nothing before the model was calibrated."""
    selection: str = "above"
    """How the numbers per site act on the scores: a name in `sparsing.rules.selections.SELECTIONS`."""

    @abc.abstractmethod
    def check(self, level: float) -> None:
        """Raise `InputError` if `level` is outside what the rule allows."""

    @abc.abstractmethod
    def values(self, level: float, curves: Curves | None, n_sites: int) -> np.ndarray:
        """The number per site that the selection takes, shape `(n_sites,)`, float64."""

    def strength(self, level: float) -> float:
        """The level as a number that rises from 0 (dense) as the model gets sparser."""
        return level

    def level(self, strength: float) -> float:
        """Inverse of `strength`."""
        return strength

    def expected_ratio(self, level: float, curves: Curves) -> float:
        """Activation ratio that the calibration curves predict at this level."""
        curve = curves[self.score]
        return float(curve.ratio_at(self.values(level, curves, len(curve.thresholds))).mean())

    @abc.abstractmethod
    def reach(self, curves: Curves) -> Reach:
        """Where to search."""

    def _check_range(self, level: float, *, low: float, high: float, open_low: bool, hint: str) -> None:
        inside = np.isfinite(level) and (low < level if open_low else low <= level) and level <= high
        if not inside:
            bracket = f"{'(' if open_low else '['}{low:g}, {high:g}]"
            raise InputError(
                f"level of {self.name} ({self.level_name}) must be in {bracket}, got {level}; {hint}"
            )


def register_rule(rule: type[Rule]) -> type[Rule]:
    """Register a rule under its name."""
    return RULES.register(rule.name, rule)


def make_rule(rule: str | Rule, **options: Any) -> Rule:
    """A rule by name, e.g. `make_rule("top_k", scope="sequence")`. A `Rule` is returned as it is.

    Raises:
        InputError: if no rule has that name (with a suggestion).
    """
    return rule if isinstance(rule, Rule) else RULES[rule](**options)
