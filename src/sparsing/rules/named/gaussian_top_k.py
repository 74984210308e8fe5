"""Gaussian top-k: a threshold per token, at which a share `k` of the neurons would be active if scores were Gaussian.

Spark Transformer (You et al. 2025, arXiv:2506.06644) and Gemma 3n cut the input of the activation function at
`mean + std * icdf(1 - k)`, where mean and standard deviation are those of the token. No sort is needed, so the rule
costs two sums. Gemma 3n also subtracts the threshold from the values above it (a soft threshold), which its training
has learned. Here the active neurons keep their values, as under every other rule.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from sparsing.rules.flags import above
from sparsing.rules.rule import KeepsShare, Reach, register_rule
from sparsing.rules.selections import Selection, register_selection

if TYPE_CHECKING:
    import torch

    from sparsing.rules.curves import Curves

_LEAST = 1e-300
"""At this share the quantile is at 37 standard deviations, which no neuron reaches."""


@register_rule
class GaussianTopK(KeepsShare):
    """Active when the score is above the quantile of a Gaussian with the token's mean and standard deviation."""

    name = "gaussian_top_k"
    score = "pre_gate"
    level_name = "k, share kept of Gaussian scores"
    selection = "gaussian_top_k"
    usual_exponent = 1.0
    ratio_is_rough = True  # scores are not Gaussian

    def reach(self, curves: Curves) -> Reach:
        # the threshold grows without bound as k falls, but slowly: at k = 1e-9 it is 6 standard deviations
        return Reach(start=1.0, most=1e9, step=1e-6)


@register_selection
class AboveGaussianQuantile(Selection):
    """All scores above `mean + std * icdf(1 - number)`."""

    name = "gaussian_top_k"

    def active(self, size: torch.Tensor, number: float, real: torch.Tensor) -> torch.Tensor:
        if number >= 1:  # also a token whose scores are all equal, at which the quantile is not defined
            return size == size
        # by symmetry, since 1 - number has few digits of a small number
        deviations = -statistics.NormalDist().inv_cdf(max(number, _LEAST))
        mean = size.mean(-1, keepdim=True)
        # `Tensor.std` takes 50 times as long as these steps on a CPU
        std = (size - mean).square_().mean(-1, keepdim=True).sqrt_()
        return above(size, mean + deviations * std)
