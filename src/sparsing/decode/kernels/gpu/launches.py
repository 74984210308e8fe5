"""Which kernels one call of a block runs, on what and in which sizes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
import triton

from sparsing.decode.kernels.gpu import passes
from sparsing.decode.kernels.gpu.tiles import Tiles, fitting

if TYPE_CHECKING:
    from sparsing.decode.kernels.gpu.workspace import Room
    from sparsing.decode.kernels.packing import PackedFFN


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Launch:
    """One kernel on one grid."""

    kernel: Any
    """A function of `passes`."""
    grid: tuple[int, ...]
    """Programs."""
    args: dict[str, Any]
    """Tensors and numbers."""
    sizes: dict[str, Any]
    """What it is compiled for."""
    warps: int
    """Warps of a program."""

    def run(self) -> None:
        self.kernel[self.grid](**self.args, **self.sizes, **self.options)

    @property
    def options(self) -> dict[str, Any]:
        """What the compiler is told beside."""
        return {"num_warps": self.warps, "enable_fp_fusion": True}


def launches(
    packed: PackedFFN, room: Room, x: torch.Tensor, y: torch.Tensor, mode: int, tiles: Tiles
) -> list[Launch]:
    """The passes of one call in order."""
    before = []
    if mode == passes.BY_GATE.value:
        before = [_gate(packed, room, x, tiles)]
    elif mode == passes.PREDICTED.value:
        before = [_quantise(packed, room, x), _predict(packed, room, x, tiles)]
    return [*before, _hidden(packed, room, x, mode, tiles), *_down(packed, room, y, tiles)]


def _tokens(x: torch.Tensor) -> int:
    """Side of a tile of tokens."""
    return 1 if x.shape[0] == 1 else 16


def _quantise(packed: PackedFFN, room: Room, x: torch.Tensor) -> Launch:
    width = room.x_codes.shape[1]
    sizes = {"D_MODEL": packed.d_model, "WIDTH": width, "PADDED": triton.next_power_of_2(width)}
    args = {"x": x, "codes": room.x_codes, "scales": room.x_scales}
    return Launch(kernel=passes.quantise, grid=(x.shape[0],), args=args, sizes=sizes, warps=8)


def _gate(packed: PackedFFN, room: Room, x: torch.Tensor, tiles: Tiles) -> Launch:
    args = {
        "x": x,
        "gate": packed.gate,
        "gates": room.gates,
        "entries": room.found,
        "sizes": room.found_sizes,
        "tokens": x.shape[0],
        "cut": max(room.gate_cut, 0.0),
    }
    sizes = {
        "D_MODEL": packed.d_model,
        "D_FF": packed.d_ff,
        "ACT": packed.act,
        "TOKENS": _tokens(x),
        "ROWS": tiles.gate_rows,
        "BLOCK": fitting(packed.d_model, tiles.gate_block),
        "STAGES": tiles.stages,
    }
    grid = (triton.cdiv(packed.d_ff, tiles.gate_rows),)
    return Launch(kernel=passes.gate_pass, grid=grid, args=args, sizes=sizes, warps=tiles.warps)


def _predict(packed: PackedFFN, room: Room, x: torch.Tensor, tiles: Tiles) -> Launch:
    predictor = room.predictor
    assert predictor is not None, "a call by prediction needs a predictor"
    groups = predictor.gate_scales.shape[1]
    codes = (room.x_codes, predictor.gate_codes, predictor.up_codes)
    if x.shape[0] == 1:  # four codes a word
        codes = tuple(None if part is None else part.view(torch.int32) for part in codes)
    args = {
        "x": codes[0],
        "x_scales": room.x_scales,
        "gate_codes": codes[1],
        "gate_scales": predictor.gate_scales,
        "up_codes": codes[2],
        "up_scales": predictor.up_scales,
        "cuts": predictor.cuts,
        "votes": room.votes,
        "entries": room.found,
        "sizes": room.found_sizes,
        "tokens": x.shape[0],
    }
    sizes = {
        "D_FF": packed.d_ff,
        "GROUPS": groups,
        "BITS": predictor.bits,
        "WITH_UP": predictor.up_codes is not None,
        "ACT": packed.act,
        "TOKENS": _tokens(x),
        "ROWS": tiles.gate_rows,
        "CHUNK": fitting(groups, tiles.chunk),
        "STAGES": tiles.stages,
    }
    grid = (triton.cdiv(packed.d_ff, tiles.gate_rows),)
    return Launch(kernel=passes.predict_pass, grid=grid, args=args, sizes=sizes, warps=tiles.warps)


def _hidden(packed: PackedFFN, room: Room, x: torch.Tensor, mode: int, tiles: Tiles) -> Launch:
    segments = triton.cdiv(packed.d_ff, tiles.gate_rows)
    args = {
        "x": x,
        "gate": packed.gate,
        "up": packed.up,
        "gates": room.gates,
        "votes": room.votes,
        "h_cuts": room.h_cuts,
        "found": room.found,
        "found_sizes": room.found_sizes,
        "h": room.h,
        "entries": room.entries,
        "sizes": room.sizes,
        "read": room.read,
        "tokens": x.shape[0],
        "gate_cut": room.gate_cut,
    }
    sizes = {
        "MODE": mode,
        "D_MODEL": packed.d_model,
        "D_FF": packed.d_ff,
        "ACT": packed.act,
        "FOUND_SEGMENT": tiles.gate_rows,
        "FOUND_SEGMENTS": segments,
        "FOUND_PADDED": triton.next_power_of_2(segments),
        "PROGRAMS": tiles.programs,
        "TOKENS": _tokens(x),
        "ROWS": tiles.hidden_rows,
        "BLOCK": fitting(packed.d_model, tiles.hidden_block),
        "STAGES": tiles.stages,
    }
    return Launch(
        kernel=passes.hidden_pass, grid=(tiles.programs,), args=args, sizes=sizes, warps=tiles.warps
    )


def _down(packed: PackedFFN, room: Room, y: torch.Tensor, tiles: Tiles) -> list[Launch]:
    tokens, block = y.shape[0], fitting(packed.d_model, tiles.down_block)
    shared = {"D_MODEL": packed.d_model, "PROGRAMS": tiles.programs, "SPLITS": tiles.splits}
    down = Launch(
        kernel=passes.down_pass,
        grid=(triton.cdiv(packed.d_model, block), tiles.splits),
        args={
            "h": room.h,
            "down": packed.down,
            "entries": room.entries,
            "sizes": room.sizes,
            "parts": room.parts,
            "tokens": tokens,
        },
        sizes=shared | {"D_FF": packed.d_ff, "TOKENS": _tokens(y), "ROWS": tiles.down_rows, "BLOCK": block},
        warps=tiles.warps,
    )
    together = Launch(
        kernel=passes.add_parts,
        grid=(triton.cdiv(packed.d_model, 128), tokens),
        args={"parts": room.parts, "y": y, "sizes": room.sizes, "read": room.read, "tokens": tokens},
        sizes=shared | {"BLOCK": 128},
        warps=tiles.warps,
    )
    return [down, together]
