"""The feed-forward block of one token, dense or with the rows of inactive neurons left out.

    dense    `h` of all neurons, with inactive neurons set to zero; after a barrier `down` times `h`
    sparse   each thread takes chunks of neurons: gates of the chunk, the ups that are needed, and the rows of
             the transposed `down` of the active neurons, added to the thread's part of the output

Both apply the same rule, so the choice between them changes the time and not the result.
"""

from __future__ import annotations

import numpy as np

from sparsing.decode.engine.basics import (
    address_of_row,
    ask_for_share,
    bias_of,
    matrix_of,
    multiply,
    multiply_row,
    prepared,
    share_of_blocks,
    share_of_rows,
    wait_for_all,
)
from sparsing.decode.engine.native import (
    GROUP,
    LINE,
    add_four_rows,
    call_silu,
    floats_at,
    ints_at,
    prefetch,
    request_line,
)
from sparsing.decode.engine.neuron_rows import (
    CHUNK,
    CODES,
    NUM_PLACES,
    RECORD,
    SCALES,
    START,
)
from sparsing.decode.engine.packed_rows import ROWS_TOGETHER
from sparsing.decode.engine.weights import DOWN, GATE, INPUT_CODE, UP
from sparsing.decode.kernels.cpu.block_kernel import apply_activation, at_or_below
from sparsing.decode.kernels.cpu.compiled import compiled

DENSE, SPARSE = 0, 1
"""The ways to compute a block."""
_BLOCK = 64
"""Neurons of a dense block that stay on one thread, so that ggml's vector code computes their SiLU."""
_STEPS = CHUNK // ROWS_TOGETHER
"""Parts in which the rows of a chunk are multiplied."""
_AHEAD = 2048
"""Bytes of the next chunk that are asked for before the neurons of the last one are added."""
_SILU = 2
"""Code of SiLU; see `block_kernel.ACTS`."""


@compiled()
def dense_block(me, layer, s):
    """Compute the block of this thread's `normed` into `out`, without a barrier at the end."""
    x, codes = s.normed + 4 * s.d_model * me, s.codes + 2 * s.code_bytes * me
    first, last = share_of_blocks(me, s, s.d_ff, _BLOCK)
    up, down = matrix_of(s, layer, UP), matrix_of(s, layer, DOWN)
    read = ints_at(s.rows_read + 24 * (me * s.n_layers + layer), 3)
    multiply(up, prepared(up, x, codes), first, last, s.h)
    if s.gated:
        gate = matrix_of(s, layer, GATE)
        multiply(gate, prepared(gate, x, codes), first, last, s.gates)
        read[0] += last - first
    read[1] += last - first
    read[2] += _activate(first, last, layer, s)
    first, last = share_of_rows(me, s, s.d_model)
    ask_for_share(down, first)
    wait_for_all(me, s)
    multiply(down, prepared(down, s.h, codes), first, last, s.out)


@compiled()
def _activate(first, last, layer, s):
    """`h` of neurons `first` to `last`, with inactive neurons set to zero; returns the number of active neurons."""
    active = 0
    gates, h, gated, act = floats_at(s.gates, s.d_ff), floats_at(s.h, s.d_ff), s.gated, s.act
    gate_cut = floats_at(s.gate_cuts, s.n_layers)[layer]
    h_cuts = floats_at(s.h_cuts + 4 * s.d_ff * layer, s.d_ff)
    gate_bias, up_bias = bias_of(s, layer, GATE), bias_of(s, layer, UP)
    if gate_bias.size:
        for i in range(first, last):
            gates[i] += gate_bias[i]
    if gated and act == _SILU:  # the only activation for which ggml's own roundings matter to equal texts
        call_silu(s.silu, last - first, s.gates + 4 * first)
    for i in range(first, last):
        value = h[i] + up_bias[i] if up_bias.size else h[i]
        if gated:
            gate = gates[i] if act == _SILU else apply_activation(act, gates[i])
            value *= gate
        else:
            gate = value = apply_activation(act, value)
        if at_or_below(abs(gate), gate_cut) or at_or_below(abs(value), h_cuts[i]):
            value = np.float32(0)
        else:
            active += 1
        h[i] = value
    return active


@compiled()
def sparse_block(me, layer, s):
    """Compute this thread's part of the output of the block into `parts`, without a barrier at the end.

    Rows of single neurons lie anywhere in memory. They are asked for while the gates of the next chunk stream in, and
    used after it, so that no thread waits for them.
    """
    x, codes = s.normed + 4 * s.d_model * me, s.codes + 2 * s.code_bytes * me
    rows = ints_at(s.rows + 8 * NUM_PLACES * layer, NUM_PLACES)
    read = ints_at(s.rows_read + 24 * (me * s.n_layers + layer), 3)
    up = matrix_of(s, layer, UP)
    # without a gate, the up row decides
    decider = matrix_of(s, layer, GATE) if s.gated else up
    values = up_values = prepared(decider, x, codes)
    if up[INPUT_CODE] != decider[INPUT_CODE]:
        up_values = prepared(up, x, codes + s.code_bytes)
    ups_later = s.gated and ints_at(s.gate_decides, s.n_layers)[layer] != 0
    floats_at(s.parts + 4 * s.out_size * me, s.out_size)[:] = 0
    products, slot, listed = _chunk_values(me, s, 2), 0, 0
    mine, end = share_of_blocks(me, s, s.d_ff, CHUNK)
    for first in range(mine, end, CHUNK):
        last = min(first + CHUNK, end)
        out = products.ctypes.data - 4 * first
        _multiply_and_ask(decider, values, first, last, out, rows, _chunk_neurons(me, s, 1 - slot), listed)
        neurons, h = _chunk_neurons(me, s, slot), _chunk_values(me, s, slot)
        found = _find(layer, first, last, s, neurons, products, h)
        if not ups_later:
            if s.gated:  # all neurons of the chunk are listed
                multiply(up, up_values, first, last, out)
            found = _keep(layer, found, s, neurons, h, products)
            read[1] += last - first
        read[0] += s.gated * (last - first)
        if last < end:
            prefetch(address_of_row(decider, last), _AHEAD)
        _finish(me, layer, s, 1 - slot, listed, up_values, ups_later)
        slot, listed = 1 - slot, found
    _multiply_and_ask(decider, values, 0, 0, 0, rows, _chunk_neurons(me, s, 1 - slot), listed)
    _finish(me, layer, s, 1 - slot, listed, up_values, ups_later)


@compiled()
def _chunk_values(me, s, place):
    """Buffer of a chunk: 0 and 1 hold `act(gate)` or `h` of listed neurons, 2 holds products."""
    return floats_at(s.chunk_values + 4 * (CHUNK + 4) * (3 * me + place), CHUNK + 4)


@compiled()
def _chunk_neurons(me, s, slot):
    """Numbers of the listed neurons of a chunk."""
    return ints_at(s.chunk_neurons + 8 * (CHUNK + 4) * (2 * me + slot), CHUNK + 4)


@compiled()
def _multiply_and_ask(matrix, values, first, last, out, rows, neurons, count):
    """`multiply` the rows of a chunk, and meanwhile ask for the records of `count` neurons, evenly spread over it."""
    start, size = rows[START], rows[RECORD]
    left, k, byte = count * (size // LINE), 0, 0
    for step in range(_STEPS):
        a, b = first + ROWS_TOGETHER * step, min(first + ROWS_TOGETHER * (step + 1), last)
        if a < b:
            multiply(matrix, values, a, b, out)
        asked = left // (_STEPS - step)
        left -= asked
        for _ in range(asked):
            request_line(start + neurons[k] * size + byte)
            byte += LINE
            if byte == size:
                k, byte = k + 1, 0


@compiled()
def _find(layer, first, last, s, neurons, products, gates):
    """List the neurons of `[first, last)` that may be active, with `act(gate)`.

    Args:
        products: Gates before bias and activation.

    Returns:
        Their number. If the gate does not decide, all neurons may be active.
    """
    act, cut = s.act, floats_at(s.gate_cuts, s.n_layers)[layer]
    bias = bias_of(s, layer, GATE if s.gated else UP)
    count = 0
    for i in range(first, last):
        gate = apply_activation(act, products[i - first] + bias[i] if bias.size else products[i - first])
        if not at_or_below(abs(gate), cut):
            gates[count], neurons[count] = gate, i
            count += 1
    return count


@compiled()
def _keep(layer, count, s, neurons, gates, ups):
    """Move the active neurons to the front, with `h` in `gates`; returns their number."""
    h_cuts, bias = floats_at(s.h_cuts + 4 * s.d_ff * layer, s.d_ff), bias_of(s, layer, UP)
    gated, kept = s.gated, 0
    for k in range(count):
        i, value = neurons[k], gates[k]
        if gated:
            value *= ups[k] + bias[i] if bias.size else ups[k]
        if not at_or_below(abs(value), h_cuts[i]):
            neurons[kept], gates[kept] = i, value
            kept += 1
    return kept


@compiled()
def _finish(me, layer, s, slot, count, up_values, ups_later):
    """Add the neurons of a list to this thread's output, after their `up` if it is not computed yet."""
    neurons, h = _chunk_neurons(me, s, slot), _chunk_values(me, s, slot)
    rows = ints_at(s.rows + 8 * NUM_PLACES * layer, NUM_PLACES)
    read = ints_at(s.rows_read + 24 * (me * s.n_layers + layer), 3)
    if ups_later:
        ups = _chunk_values(me, s, 2)
        _ups(matrix_of(s, layer, UP), rows, up_values, count, neurons, ups)
        read[1] += count
        count = _keep(layer, count, s, neurons, h, ups)
    read[2] += count
    _add(count, rows, neurons, h, floats_at(s.parts + 4 * s.out_size * me, s.out_size))


@compiled()
def _ups(matrix, rows, values, count, neurons, ups):
    start, size, target = rows[START], rows[RECORD], ups.ctypes.data
    for k in range(count):
        multiply_row(matrix, values, start + neurons[k] * size, target + 4 * k)


@compiled()
def _add(kept, rows, neurons, h, y):
    """`y += sum_k h[k] down[neurons[k]]`."""
    for k in range(kept, kept + (-kept) % 4):  # the last four may be fewer
        neurons[k], h[k] = neurons[kept - 1], np.float32(0)
    codes, scales, size = rows[CODES], rows[SCALES], rows[RECORD]
    target, groups = y.ctypes.data, y.size // GROUP
    for k in range(0, kept, 4):
        a, b, c, d = (neurons[k] * size, neurons[k + 1] * size, neurons[k + 2] * size, neurons[k + 3] * size)
        add_four_rows(
            (codes + a, codes + b, codes + c, codes + d),
            (scales + a, scales + b, scales + c, scales + d),
            (h[k], h[k + 1], h[k + 2], h[k + 3]),
            target,
            groups,
        )
