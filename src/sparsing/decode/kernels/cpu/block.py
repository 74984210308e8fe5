"""One feed-forward block on the CPU: the interface to `block_kernel`, with its buffers and counts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from numba import get_num_threads

from sparsing.decode.kernels.cpu.block_kernel import (
    ACTS,
    CutRule,
    Listed,
    PredictorCopy,
    Weights,
    block_kernel,
    group_size,
)
from sparsing.decode.kernels.cuts import kernel_cuts, no_cuts
from sparsing.decode.kernels.interface import MAX_TOKENS, RowCounts, check_num_tokens
from sparsing.decode.kernels.modes import SkipMode, sparse_mode
from sparsing.decode.kernels.pages import copy_to_huge_pages
from sparsing.decode.predict.quantised import GROUP
from sparsing.errors import InputError

if TYPE_CHECKING:
    from sparsing.decode.kernels.cuts import Cuts
    from sparsing.decode.kernels.packing import PackedFFN
    from sparsing.decode.predict.quantised import LayerPredictor


class CpuFFN:
    """`sparse(x)` and `dense(x)` of one block, for `x (tokens <= 8, d_model)` in any float dtype.

    Two Python threads must not call one block at the same time: all calls use the same buffers.

    Raises:
        InputError: if the weights are float16, or a call has more tokens than a kernel takes.
    """

    def __init__(self, packed: PackedFFN, cuts: Cuts, predictor: LayerPredictor | None = None):
        # plain tuples: see `block_kernel`
        self._weights = tuple(
            Weights(as_numpy(packed.gate), as_numpy(packed.up), as_numpy(packed.down), _scales(packed))
        )
        self._predictor = tuple(_predictor_copy(predictor))
        self._sparse = _cut_rule(sparse_mode(packed, cuts, predictor), packed, kernel_cuts(packed, cuts))
        self._dense = _cut_rule(SkipMode.ALL, packed, no_cuts(packed.d_ff))
        self._neuron_bytes = packed.neuron_bytes
        self._predictor_bytes = 0 if predictor is None else predictor.copy_bytes
        self._workspace = _Workspace(packed)
        self._views: dict[int, _Views] = {}
        """By number of tokens. Kept, because making them takes a tenth of the time of a call."""
        self.reset_counts()

    def sparse(self, x: torch.Tensor) -> torch.Tensor:
        """The output without the inactive neurons, in the shape and dtype of `x`."""
        return self._run(x, self._sparse)

    def dense(self, x: torch.Tensor) -> torch.Tensor:
        """The output with every neuron, by the same kernel."""
        return self._run(x, self._dense)

    @property
    def counts(self) -> RowCounts:
        """Rows of gate, up and down read since the last reset."""
        return RowCounts(*self._counts.sum(0).tolist())

    def reset_counts(self) -> None:
        """Set the counts to zero."""
        self._counts = np.zeros((self._workspace.threads, 3), np.int64)
        self._predicted_calls = 0

    def bytes_read(self) -> int:
        """Bytes of weights and of the predictor's copy read since the last reset."""
        return sum(self.counts) * self._neuron_bytes // 3 + self._predicted_calls * self._predictor_bytes

    def _run(self, x: torch.Tensor, rule: tuple[object, ...]) -> torch.Tensor:
        tokens = check_num_tokens(x)
        if tokens == 0:
            return x.clone()
        views = self._views.get(tokens)
        if views is None:
            views = self._views[tokens] = _Views(self._workspace, tokens)
        self._predicted_calls += rule[0] == SkipMode.PREDICTED
        y = torch.empty(x.shape, dtype=torch.float32)
        block_kernel(
            rule,
            self._weights,
            self._predictor,
            (as_float32(x), *views.codes),
            views.lists,
            views.parts,
            self._counts,
            y.numpy(),
        )
        return y if x.dtype == torch.float32 else y.to(x.dtype)


class _Workspace:
    """The buffers of a block for 8 tokens. They are made once: a call allocates nothing but its output."""

    def __init__(self, packed: PackedFFN):
        self.threads, self.d_model = get_num_threads(), packed.d_model
        group = group_size(packed.d_ff, self.threads)
        # the neurons of the thread with most groups, and a last eight that is filled up
        most = -(-packed.d_ff // (self.threads * group)) * group + 8
        self.neurons = np.zeros((self.threads, most), np.int32)
        self.selected = np.zeros(self.threads * most * MAX_TOKENS, np.bool_)
        self.gates, self.h = np.zeros((2, self.threads * most * MAX_TOKENS), np.float32)
        self.parts = np.zeros(self.threads * MAX_TOKENS * packed.d_model, np.float32)
        groups = -(-packed.d_model // GROUP)
        self.codes = np.zeros((MAX_TOKENS, groups * GROUP), np.int8)
        self.starts = np.zeros((MAX_TOKENS, groups * 16), np.int32)
        self.scales = np.zeros(MAX_TOKENS, np.float32)


class _Views:
    """The parts of the workspace that a call with this number of tokens uses, as the kernel takes them.

    They are contiguous: Numba's code for other arrays is many times slower.
    """

    def __init__(self, workspace: _Workspace, tokens: int):
        self.codes = (workspace.codes[:tokens], workspace.starts[:tokens], workspace.scales[:tokens])
        """The fields of `Tokens` after `x`."""
        shape = (*workspace.neurons.shape, tokens)
        values = (_front(buffer, shape) for buffer in (workspace.selected, workspace.gates, workspace.h))
        self.lists = tuple(Listed(workspace.neurons, *values))
        self.parts = _front(workspace.parts, (workspace.threads, tokens, workspace.d_model))


def _front(buffer: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The start of a flat buffer, in this shape."""
    return buffer[: math.prod(shape)].reshape(shape)


def _cut_rule(mode: SkipMode, packed: PackedFFN, cuts: Cuts) -> tuple[object, ...]:
    return tuple(CutRule(mode.value, ACTS.index(packed.act), np.float32(cuts.gate), as_float32(cuts.h)))


def _predictor_copy(predictor: LayerPredictor | None) -> PredictorCopy:
    no_codes, no_scales = np.zeros((0, 64), np.uint8), np.zeros((0, 1), np.uint16)
    if predictor is None:
        return PredictorCopy(4, no_codes, no_scales, no_codes, no_scales, np.zeros(0, np.float32))

    def copy(tensor: torch.Tensor | None, otherwise: np.ndarray) -> np.ndarray:
        return otherwise if tensor is None else as_numpy(copy_to_huge_pages(tensor))

    return PredictorCopy(
        bits=predictor.bits,
        gate_codes=copy(predictor.gate_codes, no_codes),
        gate_scales=copy(predictor.gate_scales, no_scales),
        up_codes=copy(predictor.up_codes, no_codes),
        up_scales=copy(predictor.up_scales, no_scales),
        cuts=as_float32(predictor.cuts),
    )


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    """A view of the tensor, bfloat16 as its bits.

    Raises:
        InputError: if the tensor is float16.
    """
    if tensor.dtype == torch.float16:
        raise InputError(
            "the CPU kernels take float32, bfloat16 and int8 weights, got float16; load the model with dtype bfloat16"
        )
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def as_float32(tensor: torch.Tensor) -> np.ndarray:
    """The tensor as float32 and C-contiguous; a view if it is so already."""
    return tensor.detach().float().contiguous().numpy()


def _scales(packed: PackedFFN) -> np.ndarray:
    return np.ones((3, packed.d_ff), np.float32) if packed.scales is None else as_float32(packed.scales)
