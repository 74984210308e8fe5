"""TEAL: thresholds on the inputs of all linears, with the sparsity of each linear from a greedy error budget.

Liu et al. 2024 ("Training-Free Activation Sparsity in Large Language Models", arXiv:2408.14690, algorithm 1). Starting
from the dense model, the greedy search raises the sparsity of one site at a time by a small step: that of the site
where the step adds the least error per weight. TEAL measures the error of the output of a whole transformer block after
each trial step, and gives every block the same sparsity. Here the error of a site is the square of its CETT, which the
calibration curves already contain, and the budget is shared by all sites of the model. The uniform budget of TEAL is
`quantile:x`.
"""

from __future__ import annotations

import functools
import heapq
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparsing.errors import InputError
from sparsing.rules.rule import DropsShare, register_rule

if TYPE_CHECKING:
    from sparsing.rules.curves import Curves, ScoreCurve

STEPS = 50
"""Steps of the greedy search from a dense site to a site without active neurons."""


@register_rule
class TEAL(DropsShare):
    """Active when the score is above the quantile that the greedy budget gives to its site."""

    name = "teal"
    score = "x"
    level_name = "sparsity, share of weights dropped"

    def values(self, level: float, curves: Curves | None, n_sites: int) -> NDArray[np.float64]:
        if curves is None:
            raise InputError(f"rule {self.label} needs curves; call calibrate(model, corpus) first")
        curve = curves[self.score]
        return curve.threshold_at_ratio(1 - greedy_sparsity(curve, level))

    def expected_ratio(self, level: float, curves: Curves) -> float:
        curve = curves[self.score]
        nonzero = 1.0 if curve.nonzero is None else curve.nonzero
        return curve.mean(np.minimum(1 - greedy_sparsity(curve, level), nonzero))


def greedy_sparsity(curve: ScoreCurve, level: float) -> NDArray[np.float64]:
    """The sparsity of each site at which a share `level` of all weights is dropped, shape `(n_sites,)`.

    The sparsity of no site falls as the level rises.
    """
    weights = curve.weights_per_site()
    # the cost of each step of each site, per weight that the step drops
    costs = np.diff(_errors(curve), axis=1) / weights[:, None]
    # No step of a site is cheaper than the steps before it. Without this the last steps of a site would be cheap, since
    # CETT is near 1 before all neurons are dropped, and the search would drop whole sites.
    costs = np.maximum.accumulate(costs, axis=1)
    queue = [(row[0], site) for site, row in enumerate(costs)]
    heapq.heapify(queue)
    steps = np.zeros(len(weights))
    left = level * weights.sum() * STEPS
    while left > 0 and queue:
        _, site = heapq.heappop(queue)
        part = min(1.0, left / weights[site])  # the last step may be a part of a step
        steps[site] += part
        left -= part * weights[site]
        done = int(steps[site])
        if part == 1.0 and done < STEPS:
            heapq.heappush(queue, (costs[site, done], site))
    return steps / STEPS


@functools.lru_cache(maxsize=8)  # a search and its interval convert many levels of one curve
def _errors(curve: ScoreCurve) -> NDArray[np.float64]:
    """Squared CETT of each site at sparsities from 0 to 1 in `STEPS` steps, shape `(n_sites, STEPS + 1)`."""
    columns = [
        curve.cett_at(curve.threshold_at_ratio(np.full(len(curve.thresholds), 1 - sparsity))) ** 2
        for sparsity in np.linspace(0, 1, STEPS + 1)
    ]
    # neurons may cancel each other: a step that lowers the error counts as free
    return np.maximum.accumulate(np.stack(columns, axis=1), axis=1)
