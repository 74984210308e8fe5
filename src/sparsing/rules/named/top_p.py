"""Top-p: the fewest neurons of each token whose scores sum up to a share `p` of the sum over all neurons.

The rule of Szatkowski et al. 2025 ("Universal Properties of Activation Sparsity in Modern Large Language Models"): the
mass is the L1 norm of the scores. `top_p_l2` takes the squared L2 norm instead. The number of active neurons is free to
differ between tokens and sites.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from sparsing.rules.flag_counts import count_over_neurons
from sparsing.rules.flags import above
from sparsing.rules.order_statistics import exactly, rising
from sparsing.rules.rule import Reach, Rule, register_rule
from sparsing.rules.scores import scores_of
from sparsing.rules.selections import Selection, register_selection

if TYPE_CHECKING:
    import torch

    from sparsing.rules.curves import Curves


@register_rule
class TopP(Rule):
    """Active when among the fewest largest scores with a share `p` of their sum."""

    name = "top_p"
    score = "h"
    level_name = "p, share of the mass kept"
    selection = "top_p"
    ratio_is_rough = True  # a few tokens have most of the mass
    power: ClassVar[int] = 1
    """The mass of a neuron is its score to this power."""

    def check(self, level: float) -> None:
        self._check_range(level, low=0, high=1, open_low=True, hint="0.9 drops a tenth of the mass")

    def values(self, level: float, curves: Curves | None, n_sites: int) -> NDArray[np.float64]:
        # the mass that may be dropped: near the dense model it has more digits than the mass that is kept
        return np.full(n_sites, 1 - float(level))

    def strength(self, level: float) -> float:
        return 1 - level

    def level(self, strength: float) -> float:
        return 1 - strength

    def site_ratios(self, level: float, curves: Curves) -> NDArray[np.float64]:
        return curves[self.score].ratio_at_mass(1 - level, self.power)

    def squared_errors(self, level: float, curves: Curves) -> NDArray[np.float64] | None:
        # Neurons cancel each other little, so the squared norms of those that are dropped add up to about the squared
        # norm of the error. The curves cannot say it, since they take all tokens together and few tokens have most of
        # the mass.
        if {score.value for score in scores_of(self.score)} != {"h"}:
            return None
        return np.full(len(curves[self.score].thresholds), (1 - level) ** (2 / self.power))

    def reach(self, curves: Curves) -> Reach:
        return Reach(start=0.1, most=1 - 1e-6, step=1e-7)


@register_rule
class TopPL2(TopP):
    """Top-p of the squared L2 norm."""

    name = "top_p_l2"
    selection = "top_p_l2"
    level_name = "p, share of the squared norm kept"
    power = 2
    usual_exponent = 1.0


@register_selection
class LeastMass(Selection):
    """All but the smallest scores of each token whose masses sum up to at most `number` of the sum over all scores."""

    name = "top_p"
    takes_signs = False
    power: ClassVar[int] = 1
    """The mass of a neuron is its score to this power."""

    def active(self, size: torch.Tensor, number: float, real: torch.Tensor) -> torch.Tensor:
        # from the smallest score upwards: the sum is exact where it matters, and a number of 0 drops only zeros
        ordered = rising(size)
        mass = ordered.pow(self.power).cumsum(-1)
        kept = count_over_neurons(above(mass, number * mass[..., -1:]))[..., None].long()
        smallest = ordered.gather(-1, (size.shape[-1] - kept).clamp_max(size.shape[-1] - 1))
        return exactly(size, smallest, kept)


@register_selection
class LeastSquaredMass(LeastMass):
    """As `LeastMass`, with the squares of the scores."""

    name = "top_p_l2"
    power = 2
