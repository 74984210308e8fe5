"""One feed-forward block on a CUDA GPU: the interface to the Triton kernels, with its buffers and counts.

A call never waits for the device and its grids are fixed, so it can be captured in a CUDA graph. `torch.compile` sees
one operator, `sparsing::triton_ffn`. With `TRITON_INTERPRET=1` in the environment the kernels run on CPU tensors.
"""

from __future__ import annotations

import contextlib
import itertools
import weakref
from typing import TYPE_CHECKING

import torch

from sparsing.decode.kernels.gpu.launches import BlockCall, Launch
from sparsing.decode.kernels.gpu.products import INTERPRETED
from sparsing.decode.kernels.gpu.tiles import MORE_TOKENS, ONE_TOKEN, Tiles
from sparsing.decode.kernels.gpu.workspace import Workspace
from sparsing.decode.kernels.interface import MAX_TOKENS, RowCounts, check_num_tokens
from sparsing.decode.kernels.modes import SkipMode, sparse_mode
from sparsing.errors import InputError

if TYPE_CHECKING:
    from sparsing.decode.kernels.cuts import Cuts
    from sparsing.decode.kernels.packing import PackedFFN
    from sparsing.decode.predict.quantised import LayerPredictor

DTYPES = (torch.bfloat16, torch.float16, torch.float32)

# the operator finds its block here by number, since an operator takes tensors and numbers only
_blocks: weakref.WeakValueDictionary[int, TritonFFN] = weakref.WeakValueDictionary()
_numbers = itertools.count()


class TritonFFN:
    """`sparse(x)` and `dense(x)` of one block, for `x (tokens <= 8, d_model)` in any float dtype.

    Sums are float32. For several tokens `h` is rounded to the dtype of the weights before `down`, as in the model.
    Two CUDA streams must not run one block at the same time: all calls use the same buffers.

    Args:
        packed: Weights in bfloat16, float16 or float32, on the device.
        cuts: The cuts that make a neuron active.
        predictor: Selects the neurons that are computed; without a predictor the kernels read all of gate.
        one, more: Tiles for one token and for several tokens.

    Raises:
        InputError: if the weights have another dtype.
    """

    def __init__(
        self,
        packed: PackedFFN,
        cuts: Cuts,
        predictor: LayerPredictor | None = None,
        *,
        one: Tiles = ONE_TOKEN,
        more: Tiles = MORE_TOKENS,
    ):
        if packed.gate.dtype not in DTYPES:
            raise InputError(
                f"the GPU kernels take bfloat16, float16 and float32 weights, got {packed.gate.dtype};"
                " load the model with dtype bfloat16"
            )
        self._packed, self._tiles = packed, (one, more)
        self._mode = sparse_mode(packed, cuts, predictor)
        self._copy_bytes = 0 if predictor is None else predictor.copy_bytes
        self.workspace = Workspace.of(packed, cuts, predictor, self._tiles, MAX_TOKENS)
        """The buffers of the kernels."""
        self.number = next(_numbers)
        """The number by which the operator `sparsing::triton_ffn` finds this block."""
        _blocks[self.number] = self

    def sparse(self, x: torch.Tensor) -> torch.Tensor:
        """The output without the inactive neurons, in the shape and dtype of `x`.

        Raises:
            InputError: if `x` is on a device without these kernels, has another shape or more than eight tokens.
        """
        return self._call(x, self._mode)

    def dense(self, x: torch.Tensor) -> torch.Tensor:
        """The output with every neuron, by the same kernels. Raises as `sparse`."""
        return self._call(x, SkipMode.DENSE)

    @property
    def counts(self) -> RowCounts:
        """Rows of gate, up and down read since the last reset. Waits for the device."""
        return RowCounts(*self.workspace.read[:3].tolist())

    def reset_counts(self) -> None:
        """Set the counts to zero."""
        self.workspace.read.zero_()

    def bytes_read(self) -> int:
        """Bytes of weights and of the predictor's copy read since the last reset. Waits for the device."""
        *rows, predicted = self.workspace.read.tolist()
        return sum(rows) * self._packed.neuron_bytes // 3 + predicted * self._copy_bytes

    def launches(self, x: torch.Tensor, y: torch.Tensor, mode: SkipMode) -> list[Launch]:
        """The launches of one call, in order; `x` and `y` are in the dtype of the weights."""
        tiles = self._tiles[0] if x.shape[0] == 1 else self._tiles[1]
        call = BlockCall(packed=self._packed, workspace=self.workspace, x=x, y=y, mode=mode, tiles=tiles)
        return call.launches()

    def run(self, x: torch.Tensor, mode: SkipMode) -> torch.Tensor:
        """Run the kernels on a checked `x`. This is the body of the operator; call `sparse` or `dense` instead."""
        given = x.detach().to(self._packed.gate.dtype).contiguous()
        y = torch.empty_like(given)
        with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
            for launch in self.launches(given, y, mode):
                launch.run()
        return y.to(x.dtype)

    def _call(self, x: torch.Tensor, mode: SkipMode) -> torch.Tensor:
        if x.ndim != 2 or x.shape[1] != self._packed.d_model:
            raise InputError(f"x must have shape (tokens, {self._packed.d_model}), got {tuple(x.shape)}")
        check_num_tokens(x)
        if x.device.type != "cuda" and not INTERPRETED.value:
            raise InputError(
                f"the Triton kernels need a CUDA device, got x on {x.device}; use CpuFFN on a CPU, or set"
                " TRITON_INTERPRET=1 before Python starts to run the kernels in Triton's interpreter"
            )
        if x.shape[0] == 0:
            return x.clone()
        return torch.ops.sparsing.triton_ffn(x, self.number, mode.value)


@torch.library.custom_op(
    "sparsing::triton_ffn", mutates_args=(), schema="(Tensor x, int block, int mode) -> Tensor"
)
def triton_ffn(x: torch.Tensor, block: int, mode: int) -> torch.Tensor:
    """The output of the block with this number. The buffers it changes are hidden from the compiler."""
    kernels = _blocks.get(block)
    if kernels is None:
        raise InputError(
            "the TritonFFN that this graph was compiled for is gone;"
            " keep a reference to it as long as the graph is used"
        )
    return kernels.run(x, SkipMode(mode))


@triton_ffn.register_fake
def _(x: torch.Tensor, block: int, mode: int) -> torch.Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)
