"""A sparsity level: the setting, dense or sparse, at which every task of an evaluation runs."""

from __future__ import annotations

import dataclasses
import math

from sparsing.base.results import Result
from sparsing.rules.thresholds import Thresholds


@dataclasses.dataclass(frozen=True, kw_only=True)
class Level(Result):
    """A setting at which every task is run."""

    kind = "evaluation_level"

    name: str
    """E.g. `dense` or `PPL-1%`."""
    thresholds: Thresholds | None = None
    """None for the dense model."""

    @property
    def slug(self) -> str:
        """The name of the level as a folder name."""
        return "".join(c if c.isalnum() or c in "-." else "-" for c in self.name.replace("%", "")).lower()


def level_of(thresholds: Thresholds, fallback: str) -> Level:
    """The level of some thresholds.

    Its name is `PPL-p%`, or the rule and its level, or `fallback` if the thresholds do not state their level.
    """
    if thresholds.target_ppl_ratio is not None:
        name = f"PPL-{round((thresholds.target_ppl_ratio - 1) * 100, 4):g}%"
        name = name if thresholds.rule == "cett" else f"{thresholds.rule} {name}"
    elif math.isfinite(thresholds.level):
        name = f"{thresholds.rule} {thresholds.level:.4g}"
    else:
        name = fallback
    return Level(name=name, thresholds=thresholds)
