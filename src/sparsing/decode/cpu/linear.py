"""A matrix against few tokens at the speed of memory: the other projections of a model, and the head."""

from __future__ import annotations

import numpy as np
import torch
from numba import get_num_threads, njit, prange

from sparsing.decode.cpu.block import MAX_TOKENS, as_numpy
from sparsing.decode.cpu.rows import FAST, dots
from sparsing.errors import InputError


@njit(fastmath=FAST, nogil=True, parallel=True, cache=True)
def linear_kernel(rows: np.ndarray, x: np.ndarray, threads: int, y: np.ndarray) -> None:
    """`y[i] = rows[i] . x` with `y` of shape `(out, tokens)`."""
    for thread in prange(threads):
        for i in range(thread * rows.shape[0] // threads, (thread + 1) * rows.shape[0] // threads):
            dots(rows, i, x, y[i])


class CpuLinear:
    """`x @ weight.T + bias` for `x (tokens <= 8, in)` and `weight (out, in)` in float32 or bfloat16.

    Raises:
        InputError: weights in float16, or more tokens than a call takes.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None):
        self._rows, self._bias, self._threads = as_numpy(weight.detach()), bias, get_num_threads()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Shape `(tokens, out)`, dtype of `x`."""
        if x.shape[0] > MAX_TOKENS:
            raise InputError(f"a decoding kernel takes up to {MAX_TOKENS} tokens at once, got {x.shape[0]}")
        values = x.detach().to(torch.float32).contiguous().numpy()
        y = np.empty((self._rows.shape[0], x.shape[0]), np.float32)
        linear_kernel(self._rows, values, self._threads, y)
        out = torch.from_numpy(y).T.to(x.dtype)
        return out if self._bias is None else out + self._bias
