"""The buffers of a block on the GPU: what its kernels read besides the weights, and what they pass to each other."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
import triton

from sparsing.decode.kernels.cuts import kernel_cuts
from sparsing.decode.predict.quantised import GROUP

if TYPE_CHECKING:
    from sparsing.decode.kernels.cuts import Cuts
    from sparsing.decode.kernels.gpu.tiles import Tiles
    from sparsing.decode.kernels.packing import PackedFFN
    from sparsing.decode.predict.quantised import LayerPredictor


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Workspace:
    """Buffers on the device of the weights, for at most 8 tokens.

    They are made once and never replaced, because a captured CUDA graph holds their addresses.
    """

    gate_cut: float
    """Cut of `|act(gate)|`, at least 0 if the activation has exact zeros."""
    h_cuts: torch.Tensor
    """Cut of `|h|`, shape `(d_ff,)`, float32."""
    predictor: LayerPredictor | None
    """The predictor with its tensors on the device."""
    x_codes: torch.Tensor
    """Quantised tokens, shape `(8, groups * 128)`, int8."""
    x_scales: torch.Tensor
    """Scales of the quantised tokens, shape `(8,)`, float32."""
    gates: torch.Tensor
    """`act(gate)`, shape `(8, d_ff)`, float32; written by `gate_pass` only."""
    votes: torch.Tensor
    """The tokens for which a neuron is predicted active, one bit each, shape `(d_ff,)`, int32."""
    candidates: torch.Tensor
    """The list of the first pass, int32, in segments of as many entries as a program has neurons."""
    candidate_sizes: torch.Tensor
    """Number of entries in each segment of `candidates`, int32."""
    h: torch.Tensor
    """Shape `(8, d_ff)`, float32. The values of listed neurons are of this call, the others of earlier calls."""
    entries: torch.Tensor
    """The list of neurons with an active `h`, int32."""
    sizes: torch.Tensor
    """Number of entries in each segment of `entries`, int32."""
    parts: torch.Tensor
    """Parts of the output, shape `(splits, 8, d_model)`, float32; calls with fewer tokens use less of it."""
    read: torch.Tensor
    """Rows of gate, up and down that were read, and passes of the predictor, shape `(4,)`, int64."""

    @staticmethod
    def of(
        packed: PackedFFN,
        cuts: Cuts,
        predictor: LayerPredictor | None,
        tiles: tuple[Tiles, ...],
        tokens: int,
    ) -> Workspace:
        """Buffers for calls of up to `tokens` tokens with any of these tiles. The counts are zero."""
        device, d_ff = packed.gate.device, packed.d_ff
        width = triton.cdiv(packed.d_model, GROUP) * GROUP
        segments = max(triton.cdiv(d_ff, tile.gate_rows) for tile in tiles)
        programs = max(tile.programs for tile in tiles)
        cuts = kernel_cuts(packed, cuts)

        def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.empty(*shape, dtype=dtype, device=device)

        return Workspace(
            gate_cut=cuts.gate,
            h_cuts=cuts.h.to(device, torch.float32).contiguous(),
            predictor=None if predictor is None else predictor.to(device),
            x_codes=empty(tokens, width, dtype=torch.int8),
            x_scales=empty(tokens),
            gates=empty(tokens, d_ff),
            votes=empty(d_ff, dtype=torch.int32),
            candidates=empty(d_ff + max(tile.gate_rows for tile in tiles), dtype=torch.int32),
            candidate_sizes=empty(segments, dtype=torch.int32),
            h=empty(tokens, d_ff),
            entries=empty(d_ff + programs, dtype=torch.int32),
            sizes=empty(programs, dtype=torch.int32),
            parts=empty(max(tile.splits for tile in tiles), tokens, packed.d_model),
            read=torch.zeros(4, dtype=torch.int64, device=device),
        )
