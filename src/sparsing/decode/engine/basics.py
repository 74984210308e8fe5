"""Small compiled steps that all parts of the engine use: barrier, norm, matrix times vector.

In all compiled functions of the engine, `s` is the record of `state.py` and `me` the number of the thread.
"""

from __future__ import annotations

import math

import numpy as np

from sparsing.decode.engine.input_forms import subtract_codes
from sparsing.decode.engine.native import (
    atomic_add,
    atomic_load,
    call_convert,
    call_dot,
    call_gemv,
    call_yield,
    floats_at,
    ints_at,
    prefetch,
)
from sparsing.decode.engine.packed_rows import ROWS_TOGETHER
from sparsing.decode.engine.weights import (
    ADDRESS,
    COLUMNS,
    DOT,
    FROM_FLOAT,
    GEMV_AT,
    INPUT_CODE,
    NUM_FIELDS,
    PACKED,
    REST,
    STRIDE,
    TO_FLOAT,
)
from sparsing.decode.kernels.cpu.compiled import compiled
from sparsing.decode.kernels.cpu.rows import FAST

_AHEAD = 8192
"""Bytes of a matrix that are asked for before a barrier."""
_SPINS = 4000
"""Looks at the counter before a waiting thread offers its processor to others: a few microseconds."""


@compiled()
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


@compiled()
def share(me, s, count):
    """The first and the last (exclusive) of `count` items that this thread takes."""
    return count * me // s.threads, count * (me + 1) // s.threads


@compiled()
def share_of_rows(me, s, count):
    """As `share`, for the rows that a thread multiplies: in eights, as `multiply` needs them."""
    return share_of_blocks(me, s, count, ROWS_TOGETHER)


@compiled()
def share_of_blocks(me, s, count, block):
    """As `share`, with both numbers a multiple of `block` unless they are `count`."""
    first, last = share(me, s, -(-count // block))
    return first * block, min(last * block, count)


@compiled()
def matrix_of(s, layer, place):
    """The fields of a matrix of a layer; see `weights.py`."""
    return ints_at(s.matrices + 8 * NUM_FIELDS * (7 * layer + place), NUM_FIELDS)


@compiled()
def bias_of(s, layer, place):
    """The bias of a matrix; an empty array if the model has no biases."""
    if s.biases == 0:
        return floats_at(s.biases, 0)
    return floats_at(s.biases + 4 * s.bias_size * (7 * layer + place), s.bias_size)


@compiled()
def rms_norm(x, weight, eps, out):
    """`out = x / sqrt(mean(x^2) + eps) * weight`, with the roundings and the order of ggml."""
    total = 0.0
    for j in range(x.size):
        total += np.float64(x[j] * x[j])
    scale = np.float32(1) / np.float32(math.sqrt(np.float32(total / x.size) + eps))
    for j in range(x.size):
        out[j] = x[j] * scale * weight[j]


@compiled()
def prepared(matrix, x, codes):
    """Address of the vector at `x` in the form that the dot product of this matrix takes; `codes` is its buffer."""
    if matrix[FROM_FLOAT] == 0:
        return x
    call_convert(matrix[FROM_FLOAT], x, codes, matrix[COLUMNS])
    if matrix[REST]:  # a second part of 8 bits: what the first part has lost by rounding
        rest = codes + 2 * matrix[REST] + 4 * ROWS_TOGETHER
        subtract_codes(matrix[INPUT_CODE], x, codes, rest, matrix[COLUMNS])
        call_convert(matrix[FROM_FLOAT], rest, codes + matrix[REST], matrix[COLUMNS])
    return codes


@compiled()
def multiply(matrix, values, first, last, out):
    """`out[r] = row r . values` for `first <= r < last`, both in eights or the last one the number of rows.

    `values` is an address from `prepared`, `out` an address.
    """
    if matrix[REST] == 0:
        _multiply_part(matrix, values, first, last, out)
        return
    for row in range(first, last, ROWS_TOGETHER):
        end, second = min(row + ROWS_TOGETHER, last), values + 2 * matrix[REST]
        _multiply_part(matrix, values, row, end, out)
        _multiply_part(matrix, values + matrix[REST], row, end, second - 4 * row)
        _add(out + 4 * row, second, end - row)


@compiled()
def multiply_row(matrix, values, row, out):
    """`*out = row . values` for a row at any address."""
    call_dot(matrix[DOT], matrix[COLUMNS], out, row, values)
    if matrix[REST]:
        second = values + 2 * matrix[REST]
        call_dot(matrix[DOT], matrix[COLUMNS], second, row, values + matrix[REST])
        _add(out, second, 1)


@compiled()
def _add(target, source, count):
    """Add the floats at the address `source` to those at `target`."""
    sums, terms = floats_at(target, count), floats_at(source, count)
    for i in range(count):
        sums[i] += terms[i]


@compiled()
def _multiply_part(matrix, values, first, last, out):
    """As `multiply`, for one part of the input."""
    if matrix[PACKED]:
        rows = matrix[PACKED] + first * matrix[STRIDE]
        if last > first:
            call_gemv(matrix[GEMV_AT], matrix[COLUMNS], out + 4 * first, rows, values, last - first)
        return
    dot, columns, stride = matrix[DOT], matrix[COLUMNS], matrix[STRIDE]
    row, target = matrix[ADDRESS] + first * stride, out + 4 * first
    for _ in range(first, last):
        call_dot(dot, columns, target, row, values)
        row += stride
        target += 4


@compiled()
def address_of_row(matrix, i):
    """Where `multiply` reads row `i`, which must be a multiple of eight."""
    return (matrix[PACKED] if matrix[PACKED] else matrix[ADDRESS]) + i * matrix[STRIDE]


@compiled()
def ask_for_share(matrix, first):
    """Ask for the first rows that this thread multiplies next, so that they arrive while it waits for the others."""
    prefetch(address_of_row(matrix, first), _AHEAD)


@compiled()
def read_row(matrix, i, out):
    """Row `i` of the matrix as float32."""
    address = matrix[ADDRESS] + i * matrix[STRIDE]
    if matrix[TO_FLOAT] == 0:
        out[:] = floats_at(address, out.size)
    else:
        call_convert(matrix[TO_FLOAT], address, out.ctypes.data, out.size)


@compiled(fastmath=FAST)
def cap_all(x, cap):
    """`x = cap tanh(x / cap)`, the soft cap of Gemma 2."""
    for i in range(x.size):
        x[i] = cap * np.float32(math.tanh(x[i] / cap))
