"""One feed-forward block on the CPU: buffers, counts and the choice of how the active set is found."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numba import get_num_threads

from sparsing.decode.kernels.cpu import block_kernel as kernel
from sparsing.decode.kernels.cuts import no_cuts
from sparsing.decode.kernels.dispatch import MAX_TOKENS
from sparsing.decode.kernels.pages import on_huge_pages
from sparsing.decode.predict.quantised import GROUP
from sparsing.errors import InputError

if TYPE_CHECKING:
    from sparsing.decode.kernels.cuts import Cuts
    from sparsing.decode.kernels.packing import PackedFFN
    from sparsing.decode.predict.quantised import LayerPredictor


class CpuFFN:
    """`sparse(x)` and `dense(x)` of one block, `x` of shape `(tokens <= 8, d_model)`, any float dtype.

    Not for two threads of Python at once: the buffers are its own.

    Raises:
        InputError: weights in float16, or more tokens than a call takes.
    """

    def __init__(self, packed: PackedFFN, cuts: Cuts, predictor: LayerPredictor | None = None):
        self._weights = (*map(as_numpy, (packed.gate, packed.up, packed.down)), _scales(packed))
        self._neuron_bytes, self._cuts = packed.neuron_bytes, (np.float32(cuts.gate), as_floats(cuts.h))
        self._no_cuts = (np.float32(-1), as_floats(no_cuts(packed.d_ff).h))
        self._act = kernel.ACTS.index(packed.act)
        self._predictor_bytes = 0 if predictor is None else predictor.copy_bytes
        by_gate = packed.zeroing or cuts.gate >= 0
        self._how = kernel.PREDICTED if predictor else kernel.BY_GATE if by_gate else kernel.ALL
        self._copy = _predictor_arrays(predictor)
        if packed.zeroing:  # what the activation zeroes is inactive under every rule
            self._cuts = (max(self._cuts[0], np.float32(0)), self._cuts[1])
        self._room = _Room(packed)
        self._views: dict[int, tuple[Any, ...]] = {}
        """Number of tokens -> codes of the tokens, lists and parts: what a call would spend a tenth of its time on."""
        self.reset_counts()

    def sparse(self, x: torch.Tensor) -> torch.Tensor:
        """The block with inactive neurons left out, shape and dtype of `x`."""
        return self._run(x, self._how, *self._cuts)

    def dense(self, x: torch.Tensor) -> torch.Tensor:
        """The block with nothing left out, by the same kernel."""
        return self._run(x, kernel.ALL, *self._no_cuts)

    @property
    def counts(self) -> np.ndarray:
        """Rows of gate, of up and of down read since the last reset, shape `(3,)`, int64."""
        return self._counts.sum(0)

    def reset_counts(self) -> None:
        self._counts = np.zeros((self._room.threads, 3), np.int64)
        self._predicted_calls = 0

    def bytes_read(self) -> int:
        """Bytes of weights and of the predictor's copy read since the last reset."""
        return (
            int(self.counts.sum()) * self._neuron_bytes // 3 + self._predicted_calls * self._predictor_bytes
        )

    def _run(self, x: torch.Tensor, how: int, gate_cut: np.float32, h_cut: np.ndarray) -> torch.Tensor:
        tokens = x.shape[0]
        if tokens > MAX_TOKENS:
            raise InputError(f"a decoding kernel takes up to {MAX_TOKENS} tokens at once, got {tokens}")
        if tokens == 0:
            return x.clone()
        views = self._views.get(tokens)
        if views is None:
            codes = tuple(part[:tokens] for part in self._room.codes)
            views = self._views[tokens] = (codes, self._room.lists(tokens), self._room.parts(tokens))
        codes, lists, parts = views
        self._predicted_calls += how == kernel.PREDICTED
        y = torch.empty(x.shape, dtype=torch.float32)
        kernel.block_kernel(
            how,
            self._weights,
            self._copy,
            codes,
            as_floats(x),
            self._act,
            gate_cut,
            h_cut,
            lists,
            parts,
            self._counts,
            y.numpy(),
        )
        return y if x.dtype == torch.float32 else y.to(x.dtype)


class _Room:
    """Buffers of a block: nothing of the size of weights is allocated while decoding."""

    def __init__(self, packed: PackedFFN):
        self.threads = get_num_threads()
        group = kernel.group_size(packed.d_ff, self.threads)
        # what the thread with most groups finds, and what fills its last eight
        most = -(-packed.d_ff // (self.threads * group)) * group + 8
        self._found = np.zeros((self.threads, most), np.int32)
        self._named = np.zeros(self.threads * most * MAX_TOKENS, np.bool_)
        self._gates, self._h = np.zeros((2, self.threads * most * MAX_TOKENS), np.float32)
        self._parts = np.zeros(self.threads * MAX_TOKENS * packed.d_model, np.float32)
        self._d_model = packed.d_model
        groups = -(-packed.d_model // GROUP)
        self.codes = (
            np.zeros((MAX_TOKENS, groups * GROUP), np.int8),
            np.zeros((MAX_TOKENS, groups * 16), np.int32),
            np.zeros(MAX_TOKENS, np.float32),
        )

    def lists(self, tokens: int) -> tuple[np.ndarray, ...]:
        """`found`, `named`, `gates` and `h`. Contiguous: Numba's code for other arrays is many times slower."""
        shape = (*self._found.shape, tokens)
        return self._found, *(_front(room, shape) for room in (self._named, self._gates, self._h))

    def parts(self, tokens: int) -> np.ndarray:
        """Each thread's part of the output."""
        return _front(self._parts, (self.threads, tokens, self._d_model))


def _front(room: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """As much of flat `room` as the shape takes."""
    return room[: math.prod(shape)].reshape(shape)


def _predictor_arrays(predictor: LayerPredictor | None) -> tuple[Any, ...]:
    """Bits, codes and scales of gate and up, and cuts; empty where there is none of them."""
    codes, scales = np.zeros((0, 64), np.uint8), np.zeros((0, 1), np.uint16)
    if predictor is None:
        return 4, codes, scales, codes, scales, np.zeros(0, np.float32)
    tensors = (predictor.gate_codes, predictor.gate_scales, predictor.up_codes, predictor.up_scales)
    given = [as_numpy(on_huge_pages(tensor)) for tensor in tensors if tensor is not None]
    return predictor.bits, *(given if len(given) == 4 else (*given, codes, scales)), as_floats(predictor.cuts)


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    """A view of the tensor; bfloat16 as its bits."""
    if tensor.dtype == torch.float16:
        raise InputError(
            "the CPU kernels take float32, bfloat16 and int8 weights, got float16; load with dtype bfloat16"
        )
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def as_floats(tensor: torch.Tensor) -> np.ndarray:
    """Float32 and C-contiguous; a view where it is already."""
    return tensor.detach().float().contiguous().numpy()


def _scales(packed: PackedFFN) -> np.ndarray:
    return np.ones((3, packed.d_ff), np.float32) if packed.scales is None else as_floats(packed.scales)
