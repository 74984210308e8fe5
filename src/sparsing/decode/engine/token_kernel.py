"""One token through the whole model, as each thread computes it; the entry into compiled code.

All threads run `run_token` at the same time. Between two barriers, each computes its share of rows, heads or neurons.
Small steps (norms, the residual sum, conversion of inputs) are repeated by every thread, which costs less than a
barrier.
"""

from __future__ import annotations

import numpy as np

from sparsing.decode.engine.attention import attend
from sparsing.decode.engine.basics import (
    ask_for_share,
    bias_of,
    cap_all,
    matrix_of,
    multiply,
    prepared,
    read_row,
    rms_norm,
    share_of_blocks,
    share_of_rows,
    wait_for_all,
)
from sparsing.decode.engine.feed_forward import SPARSE, dense_block, sparse_block
from sparsing.decode.engine.native import cycles, floats_at, ints_at
from sparsing.decode.engine.neuron_rows import CHUNK
from sparsing.decode.engine.weights import DOWN, GATE, INPUT_CODE, NUM_FIELDS, ROWS, UP, K, O, Q, V
from sparsing.decode.kernels.cpu.compiled import compiled
from sparsing.decode.kernels.cpu.rows import FAST

ATTENTION, FEED_FORWARD = 0, 1
"""Columns of `cycles` in the state."""


@compiled()
def run_token(me, token, position, with_logits, states):
    """Decode one token; `me` is the number of this thread.

    Args:
        token: Id of the token.
        position: Number of tokens before it, less than the length of the cache.
        with_logits: Whether to compute the logits.
        states: Record of `state.py`, shape `(1,)`.
    """
    s = states[0]
    x = floats_at(s.x + 4 * s.d_model * me, s.d_model)
    normed = floats_at(s.normed + 4 * s.d_model * me, s.d_model)
    spent = ints_at(s.cycles, 2 * s.n_layers)
    read_row(ints_at(s.embedding, NUM_FIELDS), token, x)
    for j in range(x.size):
        x[j] *= s.embedding_scale
    began = cycles()
    for layer in range(s.n_layers):
        _attention(me, layer, position, s, x, normed)
        now = cycles()
        if me == 0:
            spent[2 * layer + ATTENTION] += now - began
        began = now
        rms_norm(x, floats_at(s.norms + 4 * s.d_model * (2 * layer + 1), s.d_model), s.norm_eps, normed)
        if ints_at(s.ways, s.n_layers)[layer] == SPARSE:
            sparse_block(me, layer, s)
            _ask_for_next(me, layer, s)
            wait_for_all(me, s)
            _add_parts(s, normed)
        else:
            dense_block(me, layer, s)
            _ask_for_next(me, layer, s)
            wait_for_all(me, s)
            normed[:] = floats_at(s.out, s.d_model)
        _add_output(layer, 1, DOWN, s, x, normed)
        now = cycles()
        if me == 0:
            spent[2 * layer + FEED_FORWARD] += now - began
        began = now
    if with_logits:
        _logits(me, s, x, normed)
        if me == 0:
            ints_at(s.head_cycles, 1)[0] += cycles() - began


@compiled()
def _ask_for_next(me, layer, s):
    if layer + 1 < s.n_layers:
        matrix = matrix_of(s, layer + 1, Q)
        ask_for_share(matrix, share_of_rows(me, s, matrix[ROWS])[0])
    else:
        ask_for_share(ints_at(s.head, NUM_FIELDS), share_of_rows(me, s, s.vocab_size)[0])


@compiled()
def _attention(me, layer, position, s, x, normed):
    """Attention of one layer, added to the residual stream of this thread."""
    rms_norm(x, floats_at(s.norms + 8 * s.d_model * layer, s.d_model), s.norm_eps, normed)
    codes = s.codes + 2 * s.code_bytes * me
    values, form = np.int64(0), np.int64(-1)
    out = s.qkv
    for place in (Q, K, V):
        matrix, bias = matrix_of(s, layer, place), bias_of(s, layer, place)
        if matrix[INPUT_CODE] != form:
            values, form = prepared(matrix, normed.ctypes.data, codes), matrix[INPUT_CODE]
        first, last = share_of_rows(me, s, matrix[ROWS])
        multiply(matrix, values, first, last, out)
        if bias.size:
            row = floats_at(out, matrix[ROWS])
            for r in range(first, last):
                row[r] += bias[r]
        out += 4 * matrix[ROWS]
    wait_for_all(me, s)
    attend(me, layer, position, s)
    matrix = matrix_of(s, layer, O)
    first, last = share_of_rows(me, s, s.d_model)
    ask_for_share(matrix, first)
    wait_for_all(me, s)
    multiply(matrix, prepared(matrix, s.heads, codes), first, last, s.out)
    block = matrix_of(s, layer, GATE if s.gated and ints_at(s.ways, s.n_layers)[layer] == SPARSE else UP)
    ask_for_share(block, share_of_blocks(me, s, s.d_ff, CHUNK)[0])
    wait_for_all(me, s)
    normed[:] = floats_at(s.out, s.d_model)
    _add_output(layer, 0, O, s, x, normed)


@compiled(fastmath=FAST)
def _add_output(layer, which, place, s, x, out):
    """Add the output of attention (`which` 0) or of the block (1) to the residual stream; `out` is changed."""
    bias, scale = bias_of(s, layer, place), s.residual_scale
    if bias.size:
        for j in range(x.size):
            out[j] += bias[j]
    if s.post_norms:
        weight = floats_at(s.post_norms + 4 * s.d_model * (2 * layer + which), s.d_model)
        rms_norm(out, weight, s.norm_eps, out)
    for j in range(x.size):
        x[j] += scale * out[j]


@compiled(fastmath=FAST)
def _add_parts(s, out):
    """The output of a sparse block: the parts of the threads in a fixed order, so that every run gives the same."""
    out[:] = floats_at(s.parts, out.size)
    for thread in range(1, s.threads):
        part = floats_at(s.parts + 4 * s.out_size * thread, out.size)
        for j in range(out.size):
            out[j] += part[j]


@compiled()
def _logits(me, s, x, normed):
    rms_norm(x, floats_at(s.output_norm, s.d_model), s.norm_eps, normed)
    head, codes = ints_at(s.head, NUM_FIELDS), s.codes + 2 * s.code_bytes * me
    first, last = share_of_rows(me, s, s.vocab_size)
    multiply(head, prepared(head, normed.ctypes.data, codes), first, last, s.logits)
    mine = floats_at(s.logits + 4 * first, last - first)
    for i in range(mine.size):
        mine[i] *= s.logit_scale
    if s.logit_cap > 0:
        cap_all(mine, s.logit_cap)
    wait_for_all(me, s)
