"""FAT-eps: one threshold on `|gate|` for all layers (FATReLU, ProSparse). `eps = 0` drops exact zeros only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparsing.rules.rule import Reach, Rule, register_rule

if TYPE_CHECKING:
    from sparsing.rules.curves import Curves


@register_rule
class FAT(Rule):
    """Active when `|gate| > eps`, the same `eps` in all layers."""

    name = "fat"
    score = "gate"
    level_name = "eps"

    def check(self, level: float) -> None:
        self._check_range(level, low=0, high=np.inf, open_low=False, hint="0 drops exact zeros only")

    def values(self, level: float, curves: Curves | None, n_sites: int) -> NDArray[np.float64]:
        return np.full(n_sites, float(level))

    def reach(self, curves: Curves) -> Reach:
        curve = curves[self.score]
        # eps has no natural scale, so the search starts where CETT is 0.2 in the median layer
        start = float(np.median(curve.threshold_at_cett(0.2)))
        return Reach(start=start, most=float(curve.thresholds.max()), step=start * 1e-6)
