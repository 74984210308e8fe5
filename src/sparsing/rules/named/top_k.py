"""Top-k: the share of the `d_ff` neurons with the largest `|gate|`, per token (default) or over a sequence.

The reference ranks once over the flattened sequence, so that tokens compete with each other.
`scope="sequence"` reproduces that, with the reference's rounding. A neuron whose `gate` is exactly zero is
never active.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from sparsing.errors import InputError
from sparsing.rules.rule import Reach, Rule, register_rule
from sparsing.rules.scores import is_active, sizes
from sparsing.rules.selections import Selection, register_selection

if TYPE_CHECKING:
    import torch

    from sparsing.rules.curves import Curves


@register_rule
class TopK(Rule):
    """Active when among the `k * d_ff` largest `|gate|`."""

    name = "top_k"
    score = "gate"
    level_name = "k, share of d_ff"

    def __init__(self, scope: Literal["token", "sequence"] = "token"):
        if scope not in ("token", "sequence"):
            raise InputError(f"scope of top_k must be 'token' or 'sequence', got {scope!r}")
        self.selection = TopKPerToken.name if scope == "token" else TopKPerSequence.name

    def check(self, level: float) -> None:
        self._check_range(level, low=0, high=1, open_low=True, hint="0.1 keeps a tenth of the neurons")

    def values(self, level: float, curves: Curves | None, n_sites: int) -> np.ndarray:
        return np.full(n_sites, float(level))

    def strength(self, level: float) -> float:
        return 1 - level

    def level(self, strength: float) -> float:
        return 1 - strength

    def expected_ratio(self, level: float, curves: Curves) -> float:
        nonzero = curves[self.score].nonzero  # zeros are never active, so ReLU models keep fewer than k
        return level if nonzero is None else float(np.minimum(level, nonzero).mean())

    def reach(self, curves: Curves) -> Reach:
        # per token, k is a whole number of neurons; over a sequence it is finer, whatever the length
        step = 1 / curves.d_ff if self.selection == TopKPerToken.name else 1e-6
        return Reach(start=0.5, most=1 - 1 / curves.d_ff, step=step)


@register_selection
class TopKPerToken(Selection):
    """The `round(share * d_ff)` largest scores of each token, at least one."""

    name = "top_k"

    def active(
        self, value: torch.Tensor, scale: torch.Tensor | None, number: float, real: torch.Tensor
    ) -> torch.Tensor:
        size = sizes(value, scale)
        return _largest(size, max(1, round(number * size.shape[-1]))) & is_active(value, 0.0)


@register_selection
class TopKPerSequence(Selection):
    """All but the `int((1 - share) * tokens * d_ff)` smallest scores of each window, padding left out."""

    name = "top_k_sequence"
    per_token = False

    def active(
        self, value: torch.Tensor, scale: torch.Tensor | None, number: float, real: torch.Tensor
    ) -> torch.Tensor:
        size = sizes(value, scale)
        active = is_active(value, 0.0)
        for window, tokens in enumerate(real):
            flat = size[window][tokens].flatten()
            kept = flat.numel() - int((1 - number) * flat.numel())
            largest = _largest(flat[None], kept).view(-1, size.shape[-1])
            active[window, tokens] &= largest
        return active


def _largest(size: torch.Tensor, kept: int) -> torch.Tensor:
    """Exactly the `kept` largest entries of each row, bool; of equal entries those that come first.

    Half precision has many equal entries, so a comparison with the smallest kept one would keep too many.
    """
    width = size.shape[-1]
    if kept <= 0 or kept >= width:
        return size >= 0 if kept > 0 else size < 0
    # sorted=False saves half of the time
    smallest = size.topk(kept, dim=-1, sorted=False).values.amin(-1, keepdim=True)
    above, tied = size > smallest, size == smallest
    wanted = kept - above.sum(-1, keepdim=True)  # of the tied ones
    return above | (tied & (tied.cumsum(-1) <= wanted))
