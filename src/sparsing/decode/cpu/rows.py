"""A row of weights against tokens: dot products and scaled sums, for float32, bfloat16 bits and int8.

Sums are float32 and may be reordered (that is what lets them run in vector lanes); NaN and infinity keep their meaning.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numba.extending import overload

from sparsing.decode.cpu.lanes import bf16_to_f32, prefetch_line

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
        return lambda weight: bf16_to_f32(weight)
    return lambda weight: np.float32(weight)


@njit(fastmath=FAST, nogil=True, cache=True)
def dot(rows: np.ndarray, i: int, x: np.ndarray, token: int) -> np.float32:
    """`rows[i] . x[token]`."""
    total = np.float32(0)
    for j in range(rows.shape[1]):
        total += as_f32(rows[i, j]) * x[token, j]
    return total


@njit(fastmath=FAST, nogil=True, cache=True)
def dots(rows: np.ndarray, i: int, x: np.ndarray, out: np.ndarray) -> None:
    """`out[token] = rows[i] . x[token]` for all tokens, four to a pass over the row."""
    tokens = x.shape[0]
    four = tokens - tokens % 4
    for first in range(0, four, 4):
        a, b, c, d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for j in range(rows.shape[1]):
            weight = as_f32(rows[i, j])
            a += weight * x[first, j]
            b += weight * x[first + 1, j]
            c += weight * x[first + 2, j]
            d += weight * x[first + 3, j]
        out[first], out[first + 1], out[first + 2], out[first + 3] = a, b, c, d
    for token in range(four, tokens):
        out[token] = dot(rows, i, x, token)


@njit(nogil=True, cache=True)
def announce(rows, at):
    """Ask for the first line of each page that the rows `at` touch: where the processor's prefetching takes over."""
    size = rows.shape[1] * rows.itemsize
    for i in at:
        prefetch_line(rows, i, 0)
        for byte in range(-(i * size) % PAGE, size, PAGE):
            prefetch_line(rows, i, byte)


@njit(fastmath=FAST, nogil=True, cache=True)
def dots_of_eight(rows, at, x, out):
    """`out[r, token] = rows[at[r]] . x[token]` for eight rows from anywhere, read side by side.

    Eight streams at once are what brings scattered rows in at nearly the speed of one long stream: the processor's
    own prefetching follows each, where software prefetch is held up by the few misses a core may have open.
    """
    i0, i1, i2, i3, i4, i5, i6, i7 = at[0], at[1], at[2], at[3], at[4], at[5], at[6], at[7]
    for token in range(x.shape[0]):
        a, b, c, d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        e, f, g, h = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for j in range(rows.shape[1]):
            value = x[token, j]
            a += as_f32(rows[i0, j]) * value
            b += as_f32(rows[i1, j]) * value
            c += as_f32(rows[i2, j]) * value
            d += as_f32(rows[i3, j]) * value
            e += as_f32(rows[i4, j]) * value
            f += as_f32(rows[i5, j]) * value
            g += as_f32(rows[i6, j]) * value
            h += as_f32(rows[i7, j]) * value
        out[0, token], out[1, token], out[2, token], out[3, token] = a, b, c, d
        out[4, token], out[5, token], out[6, token], out[7, token] = e, f, g, h


@njit(fastmath=FAST, nogil=True, cache=True)
def add_eight(rows, at, factors, y):
    """`y[token] += sum_r factors[r, token] * rows[at[r]]` over eight rows from anywhere."""
    i0, i1, i2, i3, i4, i5, i6, i7 = at[0], at[1], at[2], at[3], at[4], at[5], at[6], at[7]
    for token in range(y.shape[0]):
        a, b, c, d = factors[0, token], factors[1, token], factors[2, token], factors[3, token]
        e, f, g, h = factors[4, token], factors[5, token], factors[6, token], factors[7, token]
        for j in range(rows.shape[1]):
            first = a * as_f32(rows[i0, j]) + b * as_f32(rows[i1, j])
            second = c * as_f32(rows[i2, j]) + d * as_f32(rows[i3, j])
            third = e * as_f32(rows[i4, j]) + f * as_f32(rows[i5, j])
            fourth = g * as_f32(rows[i6, j]) + h * as_f32(rows[i7, j])
            y[token, j] += (first + second) + (third + fourth)
