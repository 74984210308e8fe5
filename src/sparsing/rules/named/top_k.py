"""Top-k: a share of the `d_ff` neurons with the largest `|gate|`, per token (default) or over a sequence.

The reference takes it once over the flattened sequence, so that tokens compete; `scope="sequence"` repeats
that, with its rounding. A neuron whose `gate` is exactly zero is never active.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from sparsing.errors import InputError
from sparsing.rules.rule import Reach, Rule, register_rule, register_selection
from sparsing.rules.scores import is_active, sizes

if TYPE_CHECKING:
    import torch

    from sparsing.measuring.calibration import Curves


@register_rule
class TopK(Rule):
    """Active when among the `k * d_ff` largest `|gate|`."""

    name = "top_k"
    score = "gate"
    level_name = "k, share of d_ff"

    def __init__(self, scope: Literal["token", "sequence"] = "token"):
        if scope not in ("token", "sequence"):
            raise InputError(f"scope of top_k must be 'token' or 'sequence', got {scope!r}")
        self.selection = "top_k" if scope == "token" else "top_k_sequence"

    def check(self, level: float) -> None:
        self._allowed(level, low=0, high=1, open_low=True, hint="0.1 keeps a tenth of the neurons")

    def values(self, level: float, curves: Curves | None, n_layers: int) -> np.ndarray:
        return np.full(n_layers, float(level))

    def strength(self, level: float) -> float:
        return 1 - level

    def level(self, strength: float) -> float:
        return 1 - strength

    def expected_ratio(self, level: float, curves: Curves) -> float:
        return level

    def reach(self, curves: Curves) -> Reach:
        # per token k is a number of neurons; over a sequence of some length it is finer than any of them
        step = 1 / curves.d_ff if self.selection == "top_k" else 1e-6
        return Reach(start=0.5, most=1 - 1 / curves.d_ff, step=step)


@register_selection("top_k")
def per_token(
    value: torch.Tensor, scale: torch.Tensor | None, share: float, counted: torch.Tensor
) -> torch.Tensor:
    """The `round(share * d_ff)` largest of each token, at least one."""
    size = sizes(value, scale)
    d_ff = size.shape[-1]
    kept = max(1, round(share * d_ff))
    if kept >= d_ff:
        return is_active(value, 0.0)
    # a kept entry is one not below the smallest kept size; sorted=False saves half of the time
    smallest = size.topk(kept, dim=-1, sorted=False).values.amin(-1, keepdim=True)
    return (size >= smallest) & is_active(value, 0.0)


@register_selection("top_k_sequence")
def per_sequence(
    value: torch.Tensor, scale: torch.Tensor | None, share: float, counted: torch.Tensor
) -> torch.Tensor:
    """All but the `int((1 - share) * tokens * d_ff)` smallest of each window, padding left out."""
    size = sizes(value, scale)
    active = is_active(value, 0.0)
    for window, real in enumerate(counted):
        flat = size[window][real].flatten()
        dropped = int((1 - share) * flat.numel())
        if dropped:
            active[window] &= size[window] >= flat.kthvalue(min(dropped + 1, flat.numel())).values
    return active
