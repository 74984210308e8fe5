"""What the kernels of a block read beside its weights, and where they keep what passes from one to the next."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
import triton

if TYPE_CHECKING:
    from sparsing.decode.kernels.cuts import Cuts
    from sparsing.decode.kernels.gpu.tiles import Tiles
    from sparsing.decode.kernels.packing import PackedFFN
    from sparsing.decode.predict.quantised import LayerPredictor


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Room:
    """All on the device of the weights; made once, so that addresses never change. 8 is the most tokens of a call."""

    gate_cut: float
    """Cut of `|act(gate)|`, at least 0 where the activation leaves zeros."""
    h_cuts: torch.Tensor
    """Cut of `|h|`, shape `(d_ff,)`, float32."""
    predictor: LayerPredictor | None
    """With its tensors on the device."""
    x_codes: torch.Tensor
    """Quantised tokens, shape `(8, groups * 128)`, int8."""
    x_scales: torch.Tensor
    """Their scales, shape `(8,)`, float32."""
    gates: torch.Tensor
    """`act(gate)`, shape `(8, d_ff)`, float32; of the pass over all of gate alone."""
    votes: torch.Tensor
    """Which tokens a neuron is predicted active for, one bit each, shape `(d_ff,)`, int32."""
    found: torch.Tensor
    """The list of the first pass, int32, in segments of as many entries as a program has neurons."""
    found_sizes: torch.Tensor
    """Entries of each of its segments, int32."""
    h: torch.Tensor
    """Shape `(8, d_ff)`, float32; only what is listed is current."""
    entries: torch.Tensor
    """The list of neurons with an active `h`, int32."""
    sizes: torch.Tensor
    """Entries of each of its segments, int32."""
    parts: torch.Tensor
    """Parts of the output, shape `(splits, 8, d_model)`, float32; fewer tokens use less of it."""
    read: torch.Tensor
    """Rows of gate, up and down read, and passes of the predictor, shape `(4,)`, int64."""

    @staticmethod
    def of(
        packed: PackedFFN,
        cuts: Cuts,
        predictor: LayerPredictor | None,
        tiles: tuple[Tiles, ...],
        tokens: int,
    ) -> Room:
        """Room for calls of up to so many tokens with any of these tiles; the counts begin at zero."""
        device, d_ff = packed.gate.device, packed.d_ff
        width = triton.cdiv(packed.d_model, 128) * 128
        segments = max(triton.cdiv(d_ff, tile.gate_rows) for tile in tiles)

        def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.empty(*shape, dtype=dtype, device=device)

        return Room(
            gate_cut=max(cuts.gate, 0.0) if packed.zeroing else cuts.gate,
            h_cuts=cuts.h.to(device, torch.float32).contiguous(),
            predictor=None if predictor is None else _moved(predictor, device),
            x_codes=empty(tokens, width, dtype=torch.int8),
            x_scales=empty(tokens),
            gates=empty(tokens, d_ff),
            votes=empty(d_ff, dtype=torch.int32),
            found=empty(d_ff + max(tile.gate_rows for tile in tiles), dtype=torch.int32),
            found_sizes=empty(segments, dtype=torch.int32),
            h=empty(tokens, d_ff),
            entries=empty(d_ff + max(tile.programs for tile in tiles), dtype=torch.int32),
            sizes=empty(max(tile.programs for tile in tiles), dtype=torch.int32),
            parts=empty(max(tile.splits for tile in tiles), tokens, packed.d_model),
            read=torch.zeros(4, dtype=torch.int64, device=device),
        )


def _moved(predictor: LayerPredictor, device: torch.device) -> LayerPredictor:
    tensors = {
        field.name: value.to(device)
        for field in dataclasses.fields(predictor)
        if isinstance(value := getattr(predictor, field.name), torch.Tensor)
    }
    return dataclasses.replace(predictor, **tensors)
