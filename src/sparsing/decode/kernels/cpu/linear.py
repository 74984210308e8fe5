"""A matrix times a few tokens at the speed of memory, for the projections outside the blocks and the head."""

from __future__ import annotations

import numpy as np
import torch
from numba import get_num_threads, prange

from sparsing.decode.kernels.cpu.block import as_float32, as_numpy
from sparsing.decode.kernels.cpu.compiled import compiled
from sparsing.decode.kernels.cpu.rows import FAST, dots_of_eight
from sparsing.decode.kernels.interface import check_num_tokens


@compiled(fastmath=FAST, parallel=True)
def linear_kernel(rows, x, at, y):
    """`y[i] = rows[i] . x` with `y (out rounded up to eights, tokens)`; `at (threads, 8)` int32 is a buffer."""
    threads, eights = at.shape[0], y.shape[0] // 8
    for thread in prange(threads):
        mine = at[thread]
        for eight in range(thread * eights // threads, (thread + 1) * eights // threads):
            for r in range(8):
                # the last eight may reach beyond the matrix: its last row is then read again and not used
                mine[r] = min(8 * eight + r, rows.shape[0] - 1)
            dots_of_eight(rows, mine, x, y[8 * eight : 8 * eight + 8])


class CpuLinear:
    """`x @ weight.T + bias` for `x (tokens <= 8, in)` and `weight (out, in)` in float32 or bfloat16.

    Raises:
        InputError: if the weights are float16, or a call has more tokens than a kernel takes.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None):
        self._rows, self._bias = as_numpy(weight.detach()), bias
        self._at = np.zeros((get_num_threads(), 8), np.int32)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The product, shape `(tokens, out)`, in the dtype of `x`."""
        check_num_tokens(x)
        rows = self._rows.shape[0]
        y = torch.empty(-(-rows // 8) * 8, x.shape[0], dtype=torch.float32)
        linear_kernel(self._rows, as_float32(x), self._at, y.numpy())
        out = y[:rows].T if x.dtype == torch.float32 else y[:rows].T.to(x.dtype)
        return out if self._bias is None else out + self._bias
