"""A layer's thresholds as the kernels compare them: one number for the gate, one per neuron for `h`.

A neuron is active when `|act(gate)|` and `|h|` are both above their cuts. `neuron_norm_i > t` is `|h_i| > t / ||W_i||`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from sparsing.errors import InputError
from sparsing.rules.scores import SCORES, cut

if TYPE_CHECKING:
    from sparsing.decode.kernels.packing import PackedFFN
    from sparsing.rules.thresholds import Thresholds


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Cuts:
    """What makes a neuron of one block active; a cut below 0 cuts nothing."""

    gate: float
    """Active needs `|act(gate)|` above this."""
    h: torch.Tensor
    """And `|h_i|` above this, shape `(d_ff,)`, float32."""

    @property
    def dense(self) -> bool:
        """True when nothing is cut."""
        return self.gate < 0 and bool((self.h < 0).all())


def no_cuts(d_ff: int) -> Cuts:
    """Cuts that keep every neuron."""
    return Cuts(gate=-1.0, h=torch.full((d_ff,), -1.0))


def layer_cuts(packed: PackedFFN, thresholds: Thresholds, layer: int) -> Cuts:
    """The cuts of `layer`.

    Raises:
        InputError: a selection that is no threshold (top-k needs all scores of a token before it can skip any).
    """
    if not thresholds.selection.is_threshold:
        raise InputError(
            f"kernels skip by thresholds, these select by {thresholds.select!r};"
            " measure with a threshold rule: cett, ppl, fat"
        )
    score, value = SCORES[thresholds.on], thresholds.numbers[layer]
    if score.needs_gate:
        return Cuts(gate=value, h=no_cuts(packed.d_ff).h)
    scale = packed.column_norms() if score.weighted else None
    return Cuts(gate=-1.0, h=torch.as_tensor(cut(value, scale)).expand(packed.d_ff).contiguous())
