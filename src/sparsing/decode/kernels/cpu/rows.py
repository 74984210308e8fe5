"""Eight rows of weights against tokens: dot products and scaled sums, for float32, bfloat16 bits and int8.

Sums are float32. The compiler may reorder their terms to use vector lanes; NaN and infinity keep their meaning.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from sparsing.decode.kernels.cpu.codes import bf16_to_f32, prefetch_line
from sparsing.decode.kernels.cpu.compiled import compiled
from sparsing.decode.kernels.cpu.llvm import LANES
from sparsing.decode.kernels.cpu.row_vectors import eight_adds, eight_dots, eight_dots_of_two

FAST = {"reassoc", "contract", "nsz", "arcp"}
"""Fast-math flags. Those that promise the absence of NaN and infinity are left out: a NaN has to reach the output."""
PAGE = 4096
"""Bytes. The processor's own prefetching follows a row up to a multiple of this, and then has to start again."""


def as_f32(weight):  # without types: Numba compares the signature with the overload's
    """One stored weight as float32; `uint16` holds bfloat16 bits."""
    raise NotImplementedError  # Numba compiles the overload below


@overload(as_f32, inline="always")
def _as_f32(weight):
    if weight == types.uint16:
        return lambda weight: bf16_to_f32(weight)
    return lambda weight: np.float32(weight)


@compiled()
def prefetch_rows(rows, at):
    """Prefetch the first cache line of each page that the rows `at` touch; the processor prefetches the others."""
    size = rows.shape[1] * rows.itemsize
    for i in at:
        prefetch_line(rows, i, 0)
        for byte in range(-(i * size) % PAGE, size, PAGE):
            prefetch_line(rows, i, byte)


@compiled(fastmath=FAST)
def dots_of_eight(rows, at, x, out):
    """`out[r, token] = rows[at[r]] . x[token]` for eight rows at any places, read side by side.

    Eight streams at once read scattered rows at nearly the speed of one long stream: the processor's own prefetching
    follows each of them. Software prefetch alone is limited by the few misses that a core may have open.
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


@compiled(fastmath=FAST)
def add_eight(rows, at, factors, y):
    """`y[token] += sum_r factors[r, token] * rows[at[r]]` for eight rows at any places."""
    for token in range(y.shape[0]):
        f = factors[:, token]
        eight_adds(rows, at, (f[0], f[1], f[2], f[3], f[4], f[5], f[6], f[7]), y, token)
        for j in range(rows.shape[1] // LANES * LANES, rows.shape[1]):
            for r in range(8):
                y[token, j] += f[r] * as_f32(rows[at[r], j])
