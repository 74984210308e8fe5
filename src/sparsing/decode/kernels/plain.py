"""The sparse block in plain PyTorch, in float32: the reference that every kernel equals within its dtype's error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Callable

    from sparsing.decode.kernels.cuts import Cuts
    from sparsing.decode.kernels.packing import PackedFFN

ACT: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}
"""The activation functions by the names of `PackedFFN.act`."""


def above_cut(size: torch.Tensor, cut: torch.Tensor | float) -> torch.Tensor:
    """Where `size` is strictly above its cut, or NaN; bool.

    "Active means strictly above" is defined by `rules.scores.is_active`. The kernels differ on NaN alone: a skipped
    NaN would vanish from the output and hide the error, so here NaN counts as active. The CPU and the GPU kernels have
    the same helper under the same name, because a kernel cannot call PyTorch.
    """
    return ~(size <= cut)


def hidden(packed: PackedFFN, x: torch.Tensor, cuts: Cuts) -> torch.Tensor:
    """`h` with inactive neurons set to zero, shape `(tokens, d_ff)`, float32, for `x (tokens, d_model)`."""
    gate_rows, up_rows, _ = packed.floats()
    x = x.float()
    gate = ACT[packed.act](x @ gate_rows.T)
    h = gate * (x @ up_rows.T)
    active = above_cut(gate.abs(), cuts.gate) & above_cut(h.abs(), cuts.h.to(h.device))
    return h.masked_fill(~active, 0.0)


def ffn(packed: PackedFFN, x: torch.Tensor, cuts: Cuts) -> torch.Tensor:
    """The output of the sparse block, shape `(tokens, d_model)`, float32, for `x (tokens, d_model)`."""
    return hidden(packed, x, cuts) @ packed.floats()[2]


def active_mass(packed: PackedFFN, x: torch.Tensor, cuts: Cuts) -> torch.Tensor:
    """`neuron_norm` of the active neurons and 0 for the others, shape `(tokens, d_ff)`, float32."""
    return hidden(packed, x, cuts).abs() * packed.column_norms()
