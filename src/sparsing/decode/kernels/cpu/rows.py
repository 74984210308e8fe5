"""A row of weights against tokens: dot products and scaled sums, for float32, bfloat16 bits and int8.

Sums are float32 and may be reordered (that is what lets them run in vector lanes); NaN and infinity keep their meaning.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numba.extending import overload

from sparsing.decode.kernels.cpu.lanes import bf16_to_f32, prefetch_line
from sparsing.decode.kernels.cpu.vectors import LANES, eight_adds, eight_dots, eight_dots_of_two

FAST = {"reassoc", "contract", "nsz", "arcp"}
"""Fast-math without the promises that there are no NaN and no infinity: a NaN must come out again."""
PAGE = 4096
"""The processor's own prefetching follows a row as far as the next multiple of this many bytes, and starts anew."""


def as_f32(weight):  # without types: Numba compares the signature with the overload's
    """One stored weight as float32; `uint16` holds bfloat16 bits."""
    raise NotImplementedError  # Numba compiles the overload below


@overload(as_f32, inline="always")
def _as_f32(weight):
    if weight == types.uint16:
        return lambda weight: bf16_to_f32(weight)  # pyright: ignore[reportCallIssue]  (Numba gives the context)
    return lambda weight: np.float32(weight)


@njit(nogil=True, cache=True)
def announce(rows, at):
    """Ask for the first line of each page that the rows `at` touch: where the processor's prefetching takes over."""
    size = rows.shape[1] * rows.itemsize
    for i in at:
        prefetch_line(rows, i, 0)  # pyright: ignore[reportCallIssue]
        for byte in range(-(i * size) % PAGE, size, PAGE):
            prefetch_line(rows, i, byte)  # pyright: ignore[reportCallIssue]


@njit(fastmath=FAST, nogil=True, cache=True)
def dots_of_eight(rows, at, x, out):
    """`out[r, token] = rows[at[r]] . x[token]` for eight rows from anywhere, read side by side.

    Eight streams at once are what brings scattered rows in at nearly the speed of one long stream: the processor's
    own prefetching follows each, where software prefetch is held up by the few misses a core may have open.
    """
    tokens = x.shape[0]
    pairs = tokens - tokens % 2
    for token in range(0, pairs, 2):
        sums = eight_dots_of_two(rows, at, x, token)
        for r in range(8):
            out[r, token], out[r, token + 1] = sums[2 * r], sums[2 * r + 1]
    if pairs < tokens:
        sums = eight_dots(rows, at, x, pairs)
        for r in range(8):
            out[r, pairs] = sums[r]
    for j in range(rows.shape[1] // LANES * LANES, rows.shape[1]):
        for r in range(8):
            weight = as_f32(rows[at[r], j])
            for token in range(tokens):
                out[r, token] += weight * x[token, j]


@njit(fastmath=FAST, nogil=True, cache=True)
def add_eight(rows, at, factors, y):
    """`y[token] += sum_r factors[r, token] * rows[at[r]]` over eight rows from anywhere."""
    for token in range(y.shape[0]):
        f = factors[:, token]
        eight_adds(rows, at, (f[0], f[1], f[2], f[3], f[4], f[5], f[6], f[7]), y, token)  # pyright: ignore[reportCallIssue]
        for j in range(rows.shape[1] // LANES * LANES, rows.shape[1]):
            for r in range(8):
                y[token, j] += f[r] * as_f32(rows[at[r], j])
