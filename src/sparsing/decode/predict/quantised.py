"""The quantised predictor of one block: a 4- or 8-bit copy of `gate_proj`, and of `up_proj` if the rule needs it.

The predictor selects the neurons that the kernels compute exactly. Reading the 4-bit copy costs an eighth of the bytes
of a float32 gate. The predictor's cuts are set on a sample of the block's inputs for a wanted recall, the share of the
active neurons' `neuron_norm` that is on predicted neurons. Nothing is trained.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from sparsing.decode.kernels.cuts import gate_decides
from sparsing.decode.kernels.packing import ZEROING
from sparsing.decode.kernels.plain import ACT, above_cut, active_mass
from sparsing.errors import InputError

if TYPE_CHECKING:
    from sparsing.decode.kernels.cuts import Cuts
    from sparsing.decode.kernels.packing import PackedFFN

GROUP = 128
"""Number of weights that share a scale."""
DEFAULT_RECALL = 0.995


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class LayerPredictor:
    """The copies and cuts of one block.

    A code is an unsigned number, `2**(bits - 1)` above its value. Rows are padded with zeros to whole groups of 128
    weights, and each group has a scale.
    """

    bits: int
    """4 or 8."""
    recall: float
    """Wanted share of the active neurons' summed `neuron_norm` on predicted neurons, on the calibration tokens."""
    gate_codes: torch.Tensor
    """uint8. 8 bits: shape `(d_ff, groups * 128)`. 4 bits: shape `(d_ff, groups * 64)`; byte `j` of a group holds
    weight `j` in its low half and weight `64 + j` in its high half."""
    gate_scales: torch.Tensor
    """bfloat16, shape `(d_ff, groups)`."""
    up_codes: torch.Tensor | None = None
    """As `gate_codes`; None if the gate alone is predicted."""
    up_scales: torch.Tensor | None = None
    """As `gate_scales`."""
    cuts: torch.Tensor
    """A neuron is predicted active if its predicted size (see `sizes`) is above its cut; shape `(d_ff,)`, float32."""

    @property
    def copy_bytes(self) -> int:
        """Bytes of the codes and scales, all of which one pass reads."""
        tensors = (self.gate_codes, self.gate_scales, self.up_codes, self.up_scales)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)

    def to(self, device: torch.device | str) -> LayerPredictor:
        """The predictor with its tensors on this device."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        tensors = {
            name: value.to(device) for name, value in values.items() if isinstance(value, torch.Tensor)
        }
        return dataclasses.replace(self, **tensors)

    def check_fits(self, d_ff: int, d_model: int) -> None:
        """Checks that the copies are of a block of this size, since the kernels read them without further checks.

        Raises:
            InputError: if they are of another size.
        """
        wanted = (d_ff, -(-d_model // GROUP))
        if tuple(self.gate_scales.shape) != wanted or self.cuts.numel() != d_ff:
            raise InputError(
                f"the predictor was made for a block with scales of shape {tuple(self.gate_scales.shape)}, this block"
                f" has {wanted}; calibrate a predictor for this model"
            )

    def sizes(self, x: torch.Tensor, act: str) -> torch.Tensor:
        """Predicted sizes, shape `(tokens, d_ff)`, float32, in plain PyTorch; the kernels compute the same.

        The size is `|act(gate)|`, times `|up|` if up is predicted too. Under a zeroing activation the size is the gate
        before the activation, with its sign: a negative cut then selects also neurons with a small positive gate that
        the copy rounds to a negative one.
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
        """Which neurons are predicted active, shape `(tokens, d_ff)`, bool; all of them if a token is not finite."""
        return above_cut(self.sizes(x, act), self.cuts)


def build_predictor(
    packed: PackedFFN, cuts: Cuts, x: torch.Tensor, *, bits: int = 4, recall: float = DEFAULT_RECALL
) -> LayerPredictor:
    """Quantise the block and set the cuts on `x`, a sample of its inputs, shape `(tokens, d_model)`.

    The gate alone is predicted if it decides (a zeroing activation or a cut of the gate), otherwise `up` is predicted
    too. One threshold serves all neurons of the block, so the predicted sizes are weighted, see `_weights`.

    Raises:
        InputError: if `bits` is not 4 or 8, `recall` is outside (0, 1], or no neuron is active on the sample.
    """
    if bits not in (4, 8):
        raise InputError(f"bits must be 4 or 8, got {bits}")
    check_recall(recall)
    gate_alone = gate_decides(packed, cuts)
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
    weights = _weights(packed, cuts, x, gate_alone)
    sizes = predictor.sizes(x, packed.act) * weights
    threshold = threshold_for_recall(sizes, active_mass(packed, x, cuts), recall)
    return dataclasses.replace(predictor, cuts=(threshold / weights).float())


def check_recall(recall: float) -> None:
    """Raise `InputError` if the recall is outside (0, 1]."""
    if not 0 < recall <= 1:
        raise InputError(f"recall must be in (0, 1], got {recall}; the default is {DEFAULT_RECALL}")


def _weights(packed: PackedFFN, cuts: Cuts, x: torch.Tensor, gate_alone: bool) -> torch.Tensor:
    """The factor of each neuron's predicted size, shape `(d_ff,)`.

    The product estimates `neuron_norm`: if the gate alone is predicted, the mean `|up|` of the sample stands in for up.
    """
    if gate_alone and not bool((cuts.h > 0).any()):
        return torch.ones(packed.d_ff)  # the gate alone decides, so its size needs no weight
    norms = packed.column_norms()
    typical = (x.float() @ packed.floats()[1].T).abs().mean(0) if gate_alone else torch.ones(packed.d_ff)
    return (norms * typical).clamp_min(torch.finfo(torch.float32).tiny)


def threshold_for_recall(sizes: torch.Tensor, mass: torch.Tensor, recall: float) -> float:
    """The largest threshold of `sizes` above which at least the share `recall` of the mass remains.

    Args:
        sizes: Predicted sizes, shape `(tokens, d_ff)`.
        mass: `neuron_norm` of the active neurons and 0 for the others, same shape.

    Raises:
        InputError: if no neuron is active.
    """
    active = mass > 0
    if not bool(active.any()):
        raise InputError("no neuron is active on the calibration tokens; use lower thresholds or other text")
    size, order = sizes[active].sort()
    lost = (
        mass[active][order].double().cumsum(0)
    )  # mass below each threshold; float32 would round the small terms off
    first_kept = int((lost <= (1 - recall) * lost[-1]).sum())
    kept = float(size[min(first_kept, len(size) - 1)])
    return kept - 1e-6 * abs(
        kept
    )  # just below the first size that must stay, since active means strictly above


def recall_of(predicted: torch.Tensor, mass: torch.Tensor) -> float:
    """Share of `mass` on predicted neurons; both `(tokens, d_ff)`, `mass` 0 for inactive neurons."""
    return float((mass * predicted).double().sum() / mass.double().sum())


def quantise_rows(rows: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and scales of `rows (d_ff, d_model)`, as `LayerPredictor` stores them."""
    most = 2 ** (bits - 1) - 1
    groups = _grouped(rows)  # (d_ff, groups, 128)
    scales = (groups.abs().amax(2) / most).to(torch.bfloat16)
    # codes are rounded by the scale that is stored; its rounding to bfloat16 would else add to their error
    step = scales.float().clamp_min(torch.finfo(torch.float32).tiny)[..., None]
    codes = ((groups / step).round().clamp(-most - 1, most) + most + 1).to(torch.uint8)
    if bits == 4:
        codes = codes[..., :64] | codes[..., 64:] << 4
    return codes.flatten(1).contiguous(), scales.contiguous()


def quantise_tokens(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The int8 codes of each token and its scale, `max |x| / 127`, or NaN for a token that is not finite."""
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
    """The weights that the codes represent, shape `(d_ff, d_model)`, float32."""
    if bits == 4:
        halves = codes.view(codes.shape[0], -1, 64)
        codes = torch.cat([halves & 15, halves >> 4], 2)
    groups = codes.view(codes.shape[0], -1, GROUP).float() - 2 ** (bits - 1)
    return (groups * scales.float()[..., None]).flatten(1)[:, :d_model]
