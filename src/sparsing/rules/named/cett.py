"""CETT: a threshold per layer on `neuron_norm`, the same cumulative error of tail truncation in all layers.

PPL-p% (Sparsing Law, section 3; CETT-PPL-p% in the ICML version) is this rule at the level at which perplexity rises by
p%.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparsing.errors import InputError
from sparsing.rules.rule import Reach, Rule, register_rule

if TYPE_CHECKING:
    from sparsing.rules.curves import Curves


@register_rule
class CETT(Rule):
    """Active when `|h_i| * ||W[:, i]|| > t_layer`, where `t_layer` makes the layer's CETT equal the level."""

    name = "cett"
    score = "neuron_norm"
    level_name = "CETT"
    needs_curves = True
    level_is_error = True

    def check(self, level: float) -> None:
        self._check_range(
            level, low=0, high=1, open_low=False, hint="0.2 is the usual start, lower drops fewer"
        )

    def values(self, level: float, curves: Curves | None, n_sites: int) -> NDArray[np.float64]:
        if curves is None:
            raise InputError("rule cett needs curves; call calibrate(model, corpus) first")
        return curves[self.score].threshold_at_cett(level)

    def reach(self, curves: Curves) -> Reach:
        return Reach(start=0.2, most=1.0, step=1e-7)
