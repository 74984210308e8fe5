"""The thresholds of one layer in the form that kernels compare: a cut of the gate and a cut of `h` per neuron.

A neuron is active for a token when `|act(gate)|` and `|h|` are both strictly above their cuts. A threshold `t` of
`neuron_norm` becomes a cut of `h`, since `|h_i| ||W_i|| > t` is the same as `|h_i| > t / ||W_i||`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from sparsing.errors import InputError
from sparsing.rules.scores import cut

if TYPE_CHECKING:
    from sparsing.decode.kernels.packing import PackedFFN
    from sparsing.rules.thresholds import Thresholds


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Cuts:
    """The cuts of one block. A negative cut keeps every value."""

    gate: float
    """Cut of `|act(gate)|`, common to all neurons."""
    h: torch.Tensor
    """Cut of `|h_i|` for each neuron, shape `(d_ff,)`, float32."""


def no_cuts(d_ff: int) -> Cuts:
    """Cuts that keep every neuron."""
    return Cuts(gate=-1.0, h=torch.full((d_ff,), -1.0))


def layer_cuts(packed: PackedFFN, thresholds: Thresholds, value: float) -> Cuts:
    """The cuts of one block.

    Args:
        packed: Its weights.
        thresholds: The score and the selection.
        value: The threshold of the block.

    Raises:
        InputError: if the rule is no threshold on `|gate|` or `|h|`. Top-k, for example, ranks all scores of a token
            before any neuron can be skipped.
    """
    if not thresholds.cuts_blocks:
        raise InputError(
            f"the decoding kernels skip neurons by threshold, but these select {thresholds.on} by"
            f" {thresholds.select!r};"
            " measure with a threshold rule: cett, ppl, fat"
        )
    score = thresholds.scores[0]
    if score.needs_gate:
        return Cuts(gate=value, h=no_cuts(packed.d_ff).h)
    scale = packed.column_norms() if score.weighted else None
    return Cuts(gate=-1.0, h=torch.as_tensor(cut(value, scale)).expand(packed.d_ff).contiguous())


def kernel_cuts(packed: PackedFFN, cuts: Cuts) -> Cuts:
    """The cuts with the gate's raised to 0 where the activation has exact zeros (ReLU).

    A zero gate makes `h` zero, so the neuron adds nothing under any rule and its `up` row need not be read.
    """
    return dataclasses.replace(cuts, gate=max(cuts.gate, 0.0)) if packed.zeroing else cuts


def gate_decides(packed: PackedFFN, cuts: Cuts) -> bool:
    """True if the gate alone makes most neurons inactive, so that `up` is not needed to find the active set."""
    return kernel_cuts(packed, cuts).gate >= 0
