"""Attention of one token: rotary embedding, the cache of keys and values in float16, and the heads of one thread."""

from __future__ import annotations

import numpy as np
from numba import njit

from sparsing.decode.engine.basics import cap_all, exponentials, rms_norm, share
from sparsing.decode.engine.native import call_convert, call_dot, floats_at, int32s_at, ints_at
from sparsing.decode.kernels.cpu.rows import FAST

VALUES = 32
"""Cached values of a head that are decoded at a time; they stay in the first-level cache."""


@njit(nogil=True, cache=True)
def attend(me, layer, position, s):
    """Compute the heads of this thread into `heads`, and add the token to the cache.

    A head of keys may serve heads of two threads. Both then write the same bits to the cache, and each reads its own.
    """
    size, per_kv, dot = s.head_dim, s.n_heads // s.n_kv_heads, s.half_dot
    window = ints_at(s.windows, s.n_layers)[layer]
    first = max(0, position + 1 - window) if window > 0 else 0
    count = position + 1 - first
    buffer = s.head_buffer + 4 * size * (2 + VALUES) * me
    query, half = floats_at(buffer, size), s.half + 2 * size * me
    scores = floats_at(s.scores + 4 * s.context * me, count)
    bits = int32s_at(s.exponents + 4 * s.context * me, count)
    first_head, last_head = share(me, s, s.n_heads)
    remembered = -1
    for head in range(first_head, last_head):
        kv = head // per_kv
        cached = 2 * size * ((layer * s.n_kv_heads + kv) * s.context)
        if kv != remembered:
            _remember(layer, kv, position, s, buffer + 4 * size)
            remembered = kv
        _turn(layer, 0, head, position, s, query)
        for j in range(size):
            query[j] *= s.attention_scale
        call_convert(s.to_half, buffer, half, size)
        key, target = s.keys + cached + 2 * size * first, scores.ctypes.data
        for _ in range(count):
            call_dot(dot, size, target, key, half)
            key += 2 * size
            target += 4
        if s.attention_cap > 0:
            cap_all(scores, s.attention_cap)
        _softmax(scores, bits)
        values, decoded = s.values + cached + 2 * size * first, buffer + 8 * size
        _mix(scores, values, decoded, floats_at(s.heads + 4 * size * head, size), s.from_half)


@njit(nogil=True, cache=True)
def _remember(layer, kv, position, s, buffer):
    """Write key and value of the token to the cache."""
    size = s.head_dim
    place = 2 * size * ((layer * s.n_kv_heads + kv) * s.context + position)
    _turn(layer, 1, kv, position, s, floats_at(buffer, size))
    call_convert(s.to_half, buffer, s.keys + place, size)
    value = s.qkv + 4 * size * (s.n_heads + s.n_kv_heads + kv)
    call_convert(s.to_half, value, s.values + place, size)


@njit(fastmath=FAST, nogil=True, cache=True)
def _turn(layer, which, head, position, s, out):
    """Head number `head` of the queries (`which` 0) or the keys (1), normalised and turned by its position."""
    size, pairs = s.head_dim, s.rope_pairs
    source = floats_at(s.qkv + 4 * size * (which * s.n_heads + head), size)
    if s.head_norms:
        weight = floats_at(s.head_norms + 4 * size * (2 * layer + which), size)
        rms_norm(source, weight, s.norm_eps, out)
    else:
        out[:] = source
    table = ints_at(s.rope_of, s.n_layers)[layer]
    turns = floats_at(s.rope + 8 * pairs * (table * s.context + position), 2 * pairs)
    # the partner of channel `i * step` is `apart` channels further
    step, apart = (1, pairs) if s.neox else (2, 1)
    for i in range(pairs):
        a = i * step
        x, y, cosine, sine = out[a], out[a + apart], turns[2 * i], turns[2 * i + 1]
        out[a] = x * cosine - y * sine
        out[a + apart] = x * sine + y * cosine


@njit(fastmath=FAST, nogil=True, cache=True)
def _softmax(scores, bits):
    most = scores[0]
    for i in range(scores.size):
        most = max(most, scores[i])
    for i in range(scores.size):
        scores[i] -= most
    exponentials(scores, bits)
    total = np.float32(0)
    for i in range(scores.size):
        total += scores[i]
    for i in range(scores.size):
        scores[i] /= total


@njit(fastmath=FAST, nogil=True, cache=True)
def _mix(weights, values, decoded, out, from_half):
    """`out = sum_i weights[i] values[i]`; `values` is the address of float16 rows, `decoded` of a buffer."""
    size = out.size
    out[:] = 0
    for start in range(0, weights.size, VALUES):
        count = min(VALUES, weights.size - start)
        call_convert(from_half, values + 2 * size * start, decoded, count * size)
        for i in range(count):
            weight, row = weights[start + i], floats_at(decoded + 4 * size * i, size)
            for j in range(size):
                out[j] += weight * row[j]
