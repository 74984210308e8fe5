"""The kernel launches of one call of a block: which kernels run, on which tensors, in which sizes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
import triton

from sparsing.decode.kernels.gpu import passes
from sparsing.decode.kernels.gpu.tiles import fitting
from sparsing.decode.kernels.modes import SkipMode

if TYPE_CHECKING:
    from sparsing.decode.kernels.gpu.tiles import Tiles
    from sparsing.decode.kernels.gpu.workspace import Workspace
    from sparsing.decode.kernels.packing import PackedFFN

_SUM_BLOCK = 128
"""Columns of one program of `add_parts`."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Launch:
    """One kernel on one grid."""

    kernel: Any
    """A function of `passes`."""
    grid: tuple[int, ...]
    """Number of programs on each axis."""
    args: dict[str, Any]
    """Tensors and numbers, by name of the kernel's parameter."""
    sizes: dict[str, Any]
    """Compile-time constants, by name of the kernel's parameter. Triton compiles a kernel for each set of them."""
    warps: int
    """Warps of a program."""

    def run(self) -> None:
        """Start the kernel."""
        self.kernel[self.grid](**self.args, **self.sizes, **self.options)

    @property
    def options(self) -> dict[str, Any]:
        """Options of the compiler."""
        return {"num_warps": self.warps, "enable_fp_fusion": True}


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class BlockCall:
    """One call of a block."""

    packed: PackedFFN
    workspace: Workspace
    x: torch.Tensor
    """Input, shape `(tokens, d_model)`, C-contiguous, in the dtype of the weights."""
    y: torch.Tensor
    """Output, same shape and dtype."""
    mode: SkipMode
    tiles: Tiles

    def launches(self) -> list[Launch]:
        """The launches in order."""
        first = []
        if self.mode == SkipMode.BY_GATE:
            first = [self._gate()]
        elif self.mode == SkipMode.PREDICTED:
            first = [self._quantise(), self._predict()]
        return [*first, self._hidden(), self._down(), self._add_parts()]

    @property
    def _num_tokens(self) -> int:
        return self.x.shape[0]

    @property
    def _candidate_segments(self) -> int:
        """Programs of the first pass, which are the segments of its list."""
        return triton.cdiv(self.packed.d_ff, self.tiles.gate_rows)

    def _launch(
        self, kernel: Any, grid: tuple[int, ...], args: dict[str, Any], sizes: dict[str, Any], warps: int = 0
    ) -> Launch:
        """The launch, with the parameters that several kernels share added if this kernel has them."""
        common = {
            "D_MODEL": self.packed.d_model,
            "D_FF": self.packed.d_ff,
            "ACT": self.packed.act,
            "TOKENS": 1 if self._num_tokens == 1 else 16,  # tensor cores take no fewer than 16 tokens
            "PROGRAMS": self.tiles.programs,
            "SPLITS": self.tiles.splits,
            "STAGES": self.tiles.stages,
        }
        names = frozenset(kernel.arg_names)
        return Launch(
            kernel=kernel,
            grid=grid,
            args=args | ({"tokens": self._num_tokens} if "tokens" in names else {}),
            sizes={name: size for name, size in common.items() if name in names} | sizes,
            warps=warps or self.tiles.warps,
        )

    def _quantise(self) -> Launch:
        width = self.workspace.x_codes.shape[1]
        args = {"x": self.x, "codes": self.workspace.x_codes, "scales": self.workspace.x_scales}
        sizes = {"WIDTH": width, "PADDED": triton.next_power_of_2(width)}
        # eight warps, since one program takes a whole token
        return self._launch(passes.quantise, (self._num_tokens,), args, sizes, warps=8)

    def _gate(self) -> Launch:
        args = {
            "x": self.x,
            "gate": self.packed.gate,
            "gates": self.workspace.gates,
            "entries": self.workspace.candidates,
            "sizes": self.workspace.candidate_sizes,
            "cut": max(self.workspace.gate_cut, 0.0),
        }
        block = fitting(self.packed.d_model, self.tiles.gate_block)
        sizes = {"ROWS": self.tiles.gate_rows, "BLOCK": block}
        return self._launch(passes.gate_pass, (self._candidate_segments,), args, sizes)

    def _predict(self) -> Launch:
        predictor = self.workspace.predictor
        assert predictor is not None, "mode PREDICTED needs a predictor"
        groups = predictor.gate_scales.shape[1]
        codes = (self.workspace.x_codes, predictor.gate_codes, predictor.up_codes)
        if self._num_tokens == 1:  # the kernel reads four codes as one word
            codes = tuple(None if part is None else part.view(torch.int32) for part in codes)
        args = {
            "x": codes[0],
            "x_scales": self.workspace.x_scales,
            "gate_codes": codes[1],
            "gate_scales": predictor.gate_scales,
            "up_codes": codes[2],
            "up_scales": predictor.up_scales,
            "cuts": predictor.cuts,
            "votes": self.workspace.votes,
            "entries": self.workspace.candidates,
            "sizes": self.workspace.candidate_sizes,
        }
        sizes = {
            "GROUPS": groups,
            "BITS": predictor.bits,
            "WITH_UP": predictor.up_codes is not None,
            "ROWS": self.tiles.gate_rows,
            "CHUNK": fitting(groups, self.tiles.chunk),
        }
        return self._launch(passes.predict_pass, (self._candidate_segments,), args, sizes)

    def _hidden(self) -> Launch:
        args = {
            "x": self.x,
            "gate": self.packed.gate,
            "up": self.packed.up,
            "gates": self.workspace.gates,
            "votes": self.workspace.votes,
            "h_cuts": self.workspace.h_cuts,
            "candidates": self.workspace.candidates,
            "candidate_sizes": self.workspace.candidate_sizes,
            "h": self.workspace.h,
            "entries": self.workspace.entries,
            "sizes": self.workspace.sizes,
            "read": self.workspace.read,
            "gate_cut": self.workspace.gate_cut,
        }
        sizes = {
            "MODE": self.mode.value,
            "CANDIDATE_SEGMENT": self.tiles.gate_rows,
            "CANDIDATE_PADDED": triton.next_power_of_2(self._candidate_segments),
            "ROWS": self.tiles.hidden_rows,
            "BLOCK": fitting(self.packed.d_model, self.tiles.hidden_block),
        }
        return self._launch(passes.hidden_pass, (self.tiles.programs,), args, sizes)

    def _down(self) -> Launch:
        block = fitting(self.packed.d_model, self.tiles.down_block)
        args = {
            "h": self.workspace.h,
            "down": self.packed.down,
            "entries": self.workspace.entries,
            "sizes": self.workspace.sizes,
            "parts": self.workspace.parts,
        }
        grid = (triton.cdiv(self.packed.d_model, block), self.tiles.splits)
        return self._launch(passes.down_pass, grid, args, {"ROWS": self.tiles.down_rows, "BLOCK": block})

    def _add_parts(self) -> Launch:
        args = {
            "parts": self.workspace.parts,
            "y": self.y,
            "sizes": self.workspace.sizes,
            "read": self.workspace.read,
        }
        grid = (triton.cdiv(self.packed.d_model, _SUM_BLOCK), self._num_tokens)
        return self._launch(passes.add_parts, grid, args, {"BLOCK": _SUM_BLOCK})
