"""Small compiled steps that all parts of the engine use: barrier, norm, matrix times vector, exponentials.

In all compiled functions of the engine, `s` is the record of `state.py` and `me` the number of the thread.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from sparsing.decode.engine.native import (
    atomic_add,
    atomic_load,
    call_convert,
    call_dot,
    call_yield,
    floats_at,
    ints_at,
)
from sparsing.decode.engine.weights import ADDRESS, COLUMNS, DOT, FROM_FLOAT, NUM_FIELDS, STRIDE, TO_FLOAT
from sparsing.decode.kernels.cpu.rows import FAST

_SPINS = 4000
"""Looks at the counter before a waiting thread offers its processor to others: a few microseconds."""
_LOG2E, _LN2 = np.float32(math.log2(math.e)), np.float32(math.log(2))
_LEAST = np.float32(-126)


@njit(nogil=True, cache=True)
def wait_for_all(me, s):
    """Return when every thread has called this as often as this thread."""
    passed = ints_at(s.passed + 64 * me, 1)
    passed[0] += 1
    wanted, address, give_way = passed[0] * s.threads, s.arrivals, s.give_way
    atomic_add(address, 1)
    spins = 0
    while atomic_load(address) < wanted:
        spins += 1
        if spins > _SPINS and give_way:
            call_yield(give_way)


@njit(nogil=True, cache=True)
def share(me, s, count):
    """The first and the last (exclusive) of `count` items that this thread takes."""
    return count * me // s.threads, count * (me + 1) // s.threads


@njit(nogil=True, cache=True)
def matrix_of(s, layer, place):
    """The fields of a matrix of a layer; see `weights.py`."""
    return ints_at(s.matrices + 8 * NUM_FIELDS * (7 * layer + place), NUM_FIELDS)


@njit(nogil=True, cache=True)
def bias_of(s, layer, place):
    """The bias of a matrix; an empty array if the model has no biases."""
    if s.biases == 0:
        return floats_at(s.biases, 0)
    return floats_at(s.biases + 4 * s.bias_size * (7 * layer + place), s.bias_size)


@njit(fastmath=FAST, nogil=True, cache=True)
def rms_norm(x, weight, eps, out):
    """`out = x / sqrt(mean(x^2) + eps) * weight`."""
    total = np.float32(0)
    for j in range(x.size):
        total += x[j] * x[j]
    scale = np.float32(1) / np.float32(math.sqrt(total / np.float32(x.size) + eps))
    for j in range(x.size):
        out[j] = x[j] * scale * weight[j]


@njit(nogil=True, cache=True)
def prepared(matrix, x, codes):
    """Address of the vector at `x` in the form that the dot product of this matrix takes; `codes` is its buffer."""
    if matrix[FROM_FLOAT] == 0:
        return x
    call_convert(matrix[FROM_FLOAT], x, codes, matrix[COLUMNS])
    return codes


@njit(nogil=True, cache=True)
def multiply(matrix, values, first, last, out):
    """`out[r] = row r . values` for `first <= r < last`; `values` is an address from `prepared`, `out` an address."""
    dot, columns, stride = matrix[DOT], matrix[COLUMNS], matrix[STRIDE]
    row, target = matrix[ADDRESS] + first * stride, out + 4 * first
    for _ in range(first, last):
        call_dot(dot, columns, target, row, values)
        row += stride
        target += 4


@njit(nogil=True, cache=True)
def read_row(matrix, i, out):
    """Row `i` of the matrix as float32."""
    address = matrix[ADDRESS] + i * matrix[STRIDE]
    if matrix[TO_FLOAT] == 0:
        out[:] = floats_at(address, out.size)
    else:
        call_convert(matrix[TO_FLOAT], address, out.ctypes.data, out.size)


@njit(fastmath=FAST, nogil=True, cache=True)
def exponentials(x, bits):
    """Replace every `x <= 0` by `exp(x)`; `bits` is a buffer of the same length, int32.

    The loops have no branches and no calls, so that LLVM turns them into vector code; `math.exp` would take several
    times as long. The error is below 1e-6, relative to the exact value.
    """
    for i in range(x.size):
        power = max(x[i] * _LOG2E, _LEAST)
        whole = np.float32(math.floor(power + np.float32(0.5)))
        bits[i] = (np.int32(whole) + np.int32(127)) << np.int32(23)
        r = (power - whole) * _LN2  # |r| <= ln(2) / 2
        series = np.float32(1 / 720) + r * np.float32(1 / 5040)
        series = np.float32(1 / 24) + r * (np.float32(1 / 120) + r * series)
        x[i] = np.float32(1) + r * (
            np.float32(1) + r * (np.float32(0.5) + r * (np.float32(1 / 6) + r * series))
        )
    scales = bits.view(np.float32)
    for i in range(x.size):
        x[i] *= scales[i]


@njit(fastmath=FAST, nogil=True, cache=True)
def cap_all(x, cap):
    """`x = cap tanh(x / cap)`, the soft cap of Gemma 2."""
    for i in range(x.size):
        x[i] = cap * np.float32(math.tanh(x[i] / cap))
