"""The sparse block in plain PyTorch, float32: what every kernel must equal within its dtype's error."""

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


def hidden(packed: PackedFFN, x: torch.Tensor, cuts: Cuts) -> torch.Tensor:
    """`h` with inactive neurons at zero; `x` `(tokens, d_model)` -> `(tokens, d_ff)`, float32.

    A NaN is never above a cut, yet must not vanish: it stays.
    """
    gate_rows, up_rows, _ = packed.floats()
    x = x.float()
    gate = ACT[packed.act](x @ gate_rows.T)
    h = gate * (x @ up_rows.T)
    inactive = (gate.abs() <= cuts.gate) | (h.abs() <= cuts.h.to(h.device))
    return h.masked_fill(inactive, 0.0)


def ffn(packed: PackedFFN, x: torch.Tensor, cuts: Cuts) -> torch.Tensor:
    """Output of the sparse block; `x` and the result `(tokens, d_model)`, float32."""
    return hidden(packed, x, cuts) @ packed.floats()[2]
