"""Quantile: a threshold per site, such that every site drops the same share of its neurons.

TEAL with a uniform budget (Liu et al. 2024, arXiv:2408.14690) is `quantile:x`: thresholds on the inputs of all linears.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparsing.errors import InputError
from sparsing.rules.rule import DropsShare, register_rule

if TYPE_CHECKING:
    from sparsing.rules.curves import Curves


@register_rule
class Quantile(DropsShare):
    """Active when the score is above the quantile of its site."""

    name = "quantile"
    score = "h"
    level_name = "sparsity, share of neurons dropped"

    def values(self, level: float, curves: Curves | None, n_sites: int) -> NDArray[np.float64]:
        if curves is None:
            raise InputError(f"rule {self.label} needs curves; call calibrate(model, corpus) first")
        return curves[self.score].threshold_at_ratio(np.full(n_sites, 1 - level))

    def expected_ratio(self, level: float, curves: Curves) -> float:
        curve = curves[self.score]
        return 1 - level if curve.nonzero is None else curve.mean(np.minimum(1 - level, curve.nonzero))
