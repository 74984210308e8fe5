"""One feed-forward block on a CUDA GPU: buffers, counts and the passes of each way to find the active set.

Nothing waits for the host and the grids are fixed, so calls can be captured in a CUDA graph; `torch.compile` sees one
operator, `sparsing::triton_ffn`. With `TRITON_INTERPRET=1` in the environment the kernels run on CPU tensors.
"""

from __future__ import annotations

import contextlib
import itertools
import weakref
from typing import TYPE_CHECKING

import torch

from sparsing.decode.kernels.dispatch import MAX_TOKENS
from sparsing.decode.kernels.gpu import passes
from sparsing.decode.kernels.gpu.launches import Launch, launches
from sparsing.decode.kernels.gpu.products import INTERPRETED
from sparsing.decode.kernels.gpu.tiles import MORE_TOKENS, ONE_TOKEN, Tiles
from sparsing.decode.kernels.gpu.workspace import Room
from sparsing.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from sparsing.decode.kernels.cuts import Cuts
    from sparsing.decode.kernels.packing import PackedFFN
    from sparsing.decode.predict.quantised import LayerPredictor

DTYPES = (torch.bfloat16, torch.float16, torch.float32)

_blocks: weakref.WeakValueDictionary[int, TritonFFN] = weakref.WeakValueDictionary()
_numbers = itertools.count()


class TritonFFN:
    """`sparse(x)` and `dense(x)` of one block, `x` of shape `(tokens <= 8, d_model)`, any float dtype.

    Sums are float32. For several tokens `h` is rounded to the weights' dtype before `down`, as the model itself does.
    Not for two streams at once: the buffers are its own.

    Args:
        packed: Weights in bfloat16, float16 or float32, on the device.
        cuts: What makes a neuron active.
        predictor: Names the neurons that are computed; without one, all of gate is.
        one, more: Tiles for one and for several tokens.

    Raises:
        InputError: weights of another dtype.
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
        by_gate = packed.zeroing or cuts.gate >= 0
        mode = passes.PREDICTED if predictor else passes.BY_GATE if by_gate else passes.ALL
        self._mode = mode.value
        self._copy_bytes = 0 if predictor is None else predictor.copy_bytes
        self._room = Room.of(packed, cuts, predictor, self._tiles, MAX_TOKENS)
        self._number = next(_numbers)
        _blocks[self._number] = self

    def sparse(self, x: torch.Tensor) -> torch.Tensor:
        """The block with inactive neurons left out, shape and dtype of `x`.

        Raises:
            InputError: `x` on a device without these kernels, of another shape or of more than eight tokens.
        """
        return self._call(x, self._mode)

    def dense(self, x: torch.Tensor) -> torch.Tensor:
        """The block with nothing left out, by the same kernels. Raises as `sparse`."""
        return self._call(x, passes.DENSE.value)

    @property
    def counts(self) -> np.ndarray:
        """Rows of gate, of up and of down read since the last reset, shape `(3,)`, int64; waits for the device."""
        return self._room.read[:3].cpu().numpy()

    def reset_counts(self) -> None:
        """Set the counts to zero."""
        self._room.read.zero_()

    def bytes_read(self) -> int:
        """Bytes of weights and of the predictor's copy read since the last reset; waits for the device."""
        *rows, predicted = self._room.read.tolist()
        return sum(rows) * self._packed.neuron_bytes // 3 + predicted * self._copy_bytes

    def launches(self, x: torch.Tensor, y: torch.Tensor, mode: int) -> list[Launch]:
        """The kernels of one call in order; `x` and `y` in the weights' dtype."""
        tiles = self._tiles[0] if x.shape[0] == 1 else self._tiles[1]
        return launches(self._packed, self._room, x, y, mode, tiles)

    def _call(self, x: torch.Tensor, mode: int) -> torch.Tensor:
        if x.ndim != 2 or x.shape[1] != self._packed.d_model:
            raise InputError(f"x must have shape (tokens, {self._packed.d_model}), got {tuple(x.shape)}")
        if x.shape[0] > MAX_TOKENS:
            raise InputError(f"a decoding kernel takes up to {MAX_TOKENS} tokens at once, got {x.shape[0]}")
        if x.device.type != "cuda" and not INTERPRETED.value:
            raise InputError(
                f"Triton kernels need a CUDA device, got x on {x.device}; use CpuFFN there,"
                " or set TRITON_INTERPRET=1 before the start to run them in the interpreter"
            )
        if x.shape[0] == 0:
            return x.clone()
        return torch.ops.sparsing.triton_ffn(x, self._number, mode)

    def _run(self, x: torch.Tensor, mode: int) -> torch.Tensor:
        given = x.detach().to(self._packed.gate.dtype).contiguous()
        y = torch.empty_like(given)
        with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
            for launch in self.launches(given, y, mode):
                launch.run()
        return y.to(x.dtype)


@torch.library.custom_op(
    "sparsing::triton_ffn", mutates_args=(), schema="(Tensor x, int block, int mode) -> Tensor"
)
def triton_ffn(x: torch.Tensor, block: int, mode: int) -> torch.Tensor:
    """A block by its number: what it keeps between calls is no business of the compiler's."""
    found = _blocks.get(block)
    if found is None:
        raise InputError(
            "the TritonFFN that this graph was compiled for is gone; keep it as long as the graph"
        )
    return found._run(x, mode)


@triton_ffn.register_fake
def _(x: torch.Tensor, block: int, mode: int) -> torch.Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)
