"""The predictor of one block: a 4- or 8-bit copy of `gate_proj`, and of `up_proj` where the rule needs it.

Its pass reads an eighth (4 bits against float32) of what the exact gate would; what it names is then computed
exactly. Its cuts are set on real inputs for a wanted recall: the share of the active neurons' `neuron_norm` that is
predicted. Nothing is trained.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from sparsing.decode.kernels.packing import ZEROING
from sparsing.decode.kernels.plain import ACT, hidden
from sparsing.errors import InputError

if TYPE_CHECKING:
    from sparsing.decode.kernels.cuts import Cuts
    from sparsing.decode.kernels.packing import PackedFFN

GROUP = 128
"""Weights that share a scale."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class LayerPredictor:
    """Codes stand `2**(bits - 1)` above their value; a row is padded with zeros to whole groups of 128 weights."""

    bits: int
    """4 or 8."""
    recall: float
    """Wanted share of the active neurons' summed `neuron_norm` that is predicted, on the calibration tokens."""
    gate_codes: torch.Tensor
    """uint8; 8 bits: shape `(d_ff, groups * 128)`; 4 bits: `(d_ff, groups * 64)`, byte `j` of a group holds weight `j`
    in its low half and weight `64 + j` in its high half."""
    gate_scales: torch.Tensor
    """bfloat16, shape `(d_ff, groups)`."""
    up_codes: torch.Tensor | None = None
    """As `gate_codes`; None where the gate alone decides."""
    up_scales: torch.Tensor | None = None
    cuts: torch.Tensor
    """A neuron is predicted active when its predicted size (see `sizes`) is above this; shape `(d_ff,)`, float32."""

    @property
    def copy_bytes(self) -> int:
        """Bytes that one pass reads."""
        tensors = (self.gate_codes, self.gate_scales, self.up_codes, self.up_scales)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)

    def sizes(self, x: torch.Tensor, act: str) -> torch.Tensor:
        """Predicted sizes, shape `(tokens, d_ff)`, float32: what the kernels compute, in plain PyTorch.

        `|act(gate)|`, times `|up|` where that is predicted too. Under a zeroing activation the gate before it, with its
        sign: a cut below 0 can then name neurons whose small gate is taken for a negative one.
        """
        codes, scale = quantise_tokens(x)
        values = codes.float() * scale[:, None]
        gate = values @ _values(self.gate_codes, self.gate_scales, self.bits, x.shape[1]).T
        if act in ZEROING:
            return gate
        size = ACT[act](gate)
        if self.up_codes is not None and self.up_scales is not None:
            size = size * (values @ _values(self.up_codes, self.up_scales, self.bits, x.shape[1]).T)
        return size.abs()

    def predict(self, x: torch.Tensor, act: str) -> torch.Tensor:
        """Which neurons are predicted active, shape `(tokens, d_ff)`, bool; all of them where `x` is not finite."""
        return ~(self.sizes(x, act) <= self.cuts)


def build_predictor(
    packed: PackedFFN, cuts: Cuts, x: torch.Tensor, *, bits: int = 4, recall: float = 0.995
) -> LayerPredictor:
    """Quantise the block and set the cuts on `x`, a sample of its inputs, shape `(tokens, d_model)`.

    The gate alone is predicted where it decides (a zeroing activation, a cut of the gate); its size is weighted by the
    neuron's typical `|up|` and column norm where a cut of `neuron_norm` follows. Else `up` is predicted too.

    Raises:
        InputError: bits other than 4 or 8, a recall outside (0, 1], or no neuron active on the sample.
    """
    if bits not in (4, 8):
        raise InputError(f"bits must be 4 or 8, got {bits}")
    if not 0 < recall <= 1:
        raise InputError(f"recall must be in (0, 1], got {recall}; 0.995 is the default")
    gate_alone = packed.zeroing or cuts.gate >= 0
    gate_rows, up_rows, _ = packed.floats()
    gate_codes, gate_scales = quantise_rows(gate_rows, bits)
    up_codes, up_scales = (None, None) if gate_alone else quantise_rows(up_rows, bits)
    predictor = LayerPredictor(
        bits=bits,
        recall=recall,
        gate_codes=gate_codes,
        gate_scales=gate_scales,
        up_codes=up_codes,
        up_scales=up_scales,
        cuts=torch.zeros(packed.d_ff),
    )
    norms = packed.column_norms()
    mass = hidden(packed, x, cuts).abs() * norms  # (tokens, d_ff), 0 where inactive
    weights = _weights(packed, cuts, x, norms, gate_alone)
    threshold = threshold_for_recall(predictor.sizes(x, packed.act) * weights, mass, recall)
    return dataclasses.replace(predictor, cuts=(threshold / weights).float())


def _weights(
    packed: PackedFFN, cuts: Cuts, x: torch.Tensor, norms: torch.Tensor, gate_alone: bool
) -> torch.Tensor:
    """What to weigh predicted sizes by, so that one threshold serves all neurons of the layer, shape `(d_ff,)`."""
    if gate_alone and not bool((cuts.h > 0).any()):
        return torch.ones(packed.d_ff)  # an active neuron is one with a large gate
    typical = (x.float() @ packed.floats()[1].T).abs().mean(0) if gate_alone else torch.ones(packed.d_ff)
    return (norms * typical).clamp_min(torch.finfo(torch.float32).tiny)


def threshold_for_recall(sizes: torch.Tensor, mass: torch.Tensor, recall: float) -> float:
    """The largest threshold whose predicted set still holds `recall` of the mass."""
    active = mass > 0
    if not bool(active.any()):
        raise InputError("no neuron is active on the calibration tokens; use lower thresholds or other text")
    size, order = sizes[active].sort()
    lost = mass[active][order].double().cumsum(0)
    first_kept = int((lost <= (1 - recall) * lost[-1]).sum())
    kept = float(size[min(first_kept, len(size) - 1)])
    return kept - 1e-6 * abs(kept)  # just below the first that must stay: active is strictly above


def recall_of(predicted: torch.Tensor, mass: torch.Tensor) -> float:
    """Share of `mass` (0 where inactive) on predicted neurons, both `(tokens, d_ff)`."""
    return float((mass * predicted).double().sum() / mass.double().sum())


def quantise_rows(rows: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`(codes, scales)` of `rows (d_ff, d_model)`, as `LayerPredictor` stores them."""
    most = 2 ** (bits - 1) - 1
    groups = _grouped(rows)  # (d_ff, groups, 128)
    scales = (groups.abs().amax(2) / most).to(torch.bfloat16)
    step = scales.float().clamp_min(torch.finfo(torch.float32).tiny)[..., None]
    codes = ((groups / step).round().clamp(-most - 1, most) + most + 1).to(torch.uint8)
    if bits == 4:
        codes = codes[..., :64] | codes[..., 64:] << 4
    return codes.flatten(1).contiguous(), scales.contiguous()


def quantise_tokens(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`(int8 codes, scale)` per token by `max |x| / 127`; a token that is not finite has the scale NaN."""
    x = x.float()
    scale = x.abs().amax(1) / 127
    codes = (
        (x / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None]).round().nan_to_num(0).to(torch.int8)
    )
    return codes, scale.masked_fill(~x.isfinite().all(1), float("nan"))


def _grouped(rows: torch.Tensor) -> torch.Tensor:
    padded = torch.nn.functional.pad(rows.float(), (0, -rows.shape[1] % GROUP))
    return padded.view(rows.shape[0], -1, GROUP)


def _values(codes: torch.Tensor, scales: torch.Tensor, bits: int, d_model: int) -> torch.Tensor:
    """Weights that codes stand for, shape `(d_ff, d_model)`, float32."""
    if bits == 4:
        halves = codes.view(codes.shape[0], -1, 64)
        codes = torch.cat([halves & 15, halves >> 4], 2)
    groups = codes.view(codes.shape[0], -1, GROUP).float() - 2 ** (bits - 1)
    return (groups * scales.float()[..., None]).flatten(1)[:, :d_model]
