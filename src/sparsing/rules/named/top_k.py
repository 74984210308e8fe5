"""Top-k: the share of the `d_ff` neurons with the largest score, per token (default) or over a sequence.

The reference ranks once over the flattened sequence, so that tokens compete with each other.
`scope="sequence"` reproduces that, with the reference's rounding. A neuron whose score is exactly zero is
never active.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

import numpy as np

from sparsing.errors import InputError
from sparsing.rules.order_statistics import largest
from sparsing.rules.rule import KeepsShare, Reach, register_rule
from sparsing.rules.scores import is_above
from sparsing.rules.selections import Selection, register_selection

if TYPE_CHECKING:
    import torch

    from sparsing.rules.curves import Curves


@register_rule
class TopK(KeepsShare):
    """Active when among the `k * d_ff` largest scores."""

    name = "top_k"
    score = "gate"

    def __init__(self, scope: Literal["token", "sequence"] = "token", *, score: str | None = None):
        if scope not in ("token", "sequence"):
            raise InputError(f"scope of top_k must be 'token' or 'sequence', got {scope!r}")
        self.selection = TopKPerToken.name if scope == "token" else TopKPerSequence.name
        super().__init__(score=score)

    def expected_ratio(self, level: float, curves: Curves) -> float:
        nonzero = curves[self.score].nonzero  # zeros are never active, so ReLU models keep fewer than k
        return level if nonzero is None else curves[self.score].mean(np.minimum(level, nonzero))

    def reach(self, curves: Curves) -> Reach:
        reach = super().reach(curves)
        # per token, k is a whole number of neurons; over a sequence it is finer, whatever the length
        return reach if self.selection == TopKPerToken.name else dataclasses.replace(reach, step=1e-6)


@register_selection
class TopKPerToken(Selection):
    """The `round(share * d_ff)` largest scores of each token, at least one."""

    name = "top_k"

    def active(self, size: torch.Tensor, number: float, real: torch.Tensor) -> torch.Tensor:
        return largest(size, max(1, round(number * size.shape[-1])), all_zeros=True)


@register_selection
class TopKPerSequence(Selection):
    """All but the `int((1 - share) * tokens * d_ff)` smallest scores of each window, padding left out."""

    name = "top_k_sequence"
    per_token = False

    def active(self, size: torch.Tensor, number: float, real: torch.Tensor) -> torch.Tensor:
        active = is_above(size, float("inf"))
        for window, tokens in enumerate(real):
            flat = size[window][tokens].flatten()
            kept = flat.numel() - int((1 - number) * flat.numel())
            active[window, tokens] = largest(flat[None], kept, all_zeros=True).view(-1, size.shape[-1])
        return active
