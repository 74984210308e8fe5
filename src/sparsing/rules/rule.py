"""What every rule and every selection has in common.

A *selection* turns scores and one number per layer into the active set. A *rule* names a score and a
selection and turns its scalar *level* into that number per layer. Every rule is monotone in its level;
`strength` is the level turned so that 0 is dense and more is sparser, which is what the search walks along.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sparsing.base.registry import Registry
from sparsing.errors import InputError

if TYPE_CHECKING:
    import torch

    from sparsing.measuring.calibration import Curves

    Selection = Callable[[torch.Tensor, torch.Tensor | None, float, torch.Tensor], torch.Tensor]

SELECTIONS: Registry[Selection] = Registry("selection")
RULES: Registry[type[Rule]] = Registry("rule")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reach:
    """Where a search along `strength` begins and how far it goes."""

    start: float
    most: float
    """Beyond this nothing more is dropped."""
    step: float
    """Two strengths nearer than this are the same rule for all that matters."""


class Rule(abc.ABC):
    """Which neurons stay active, as a function of one scalar level."""

    name: ClassVar[str]
    score: ClassVar[str]
    """What is cut: a name in `sparsing.rules.scores.SCORES`."""
    level_name: ClassVar[str]
    """What the level is, with its unit, for tables and axes."""
    needs_curves: ClassVar[bool] = False
    """True when a level means nothing before the model was calibrated."""
    selection: str = "above"
    """How values per layer act on the scores: a name in `SELECTIONS`."""

    @abc.abstractmethod
    def check(self, level: float) -> None:
        """Raise InputError when `level` is outside what the rule allows."""

    @abc.abstractmethod
    def values(self, level: float, curves: Curves | None, n_layers: int) -> np.ndarray:
        """The number per layer that the selection takes, shape `(n_layers,)`, float64."""

    def strength(self, level: float) -> float:
        """The level as something that rises from 0 (dense) as the model gets sparser."""
        return level

    def level(self, strength: float) -> float:
        """Inverse of `strength`."""
        return strength

    def expected_ratio(self, level: float, curves: Curves) -> float:
        """Activation ratio that the calibration curves promise at this level."""
        curve = curves[self.score]
        return float(curve.ratio_at(self.values(level, curves, len(curve.thresholds))).mean())

    @abc.abstractmethod
    def reach(self, curves: Curves) -> Reach:
        """Where to search."""

    def _allowed(self, level: float, *, low: float, high: float, open_low: bool, hint: str) -> None:
        inside = np.isfinite(level) and (low < level if open_low else low <= level) and level <= high
        if not inside:
            bracket = f"{'(' if open_low else '['}{low:g}, {high:g}]"
            raise InputError(
                f"level of {self.name} ({self.level_name}) must be in {bracket}, got {level}; {hint}"
            )


def register_rule(rule: type[Rule]) -> type[Rule]:
    """Announce a rule under its name."""
    return RULES.register(rule.name, rule)


def register_selection(name: str) -> Callable[[Selection], Selection]:
    """Announce `select(value, scale, number, counted) -> active`.

    `value`: activations, shape `(windows, tokens, d_ff)`; the score is `|value| * scale`. `number`: what the
    rule says for this layer. `counted`: which tokens are real, shape `(windows, tokens)`, bool. Returns the
    active set, shape of `value`, bool; what it says of padding does not matter.
    """
    return lambda select: SELECTIONS.register(name, select)


def make_rule(rule: str | Rule, **options: Any) -> Rule:
    """A rule by name, e.g. `make_rule("top_k", scope="sequence")`; a rule is passed through.

    Raises:
        InputError: no rule of that name (with a suggestion).
    """
    return rule if isinstance(rule, Rule) else RULES[rule](**options)
