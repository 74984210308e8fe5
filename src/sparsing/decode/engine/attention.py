"""Attention of one token: rotary embedding, the cache of keys and values in float16, and the heads of one thread.

The order of the steps and their roundings are those of llama.cpp without flash attention, so that texts agree.
"""

from __future__ import annotations

import math

import numpy as np

from sparsing.decode.engine.basics import cap_all, rms_norm, share
from sparsing.decode.engine.native import (
    call_convert,
    call_dot,
    call_softmax,
    floats_at,
    fused,
    halves_at,
    ints_at,
)
from sparsing.decode.kernels.cpu.compiled import compiled

PADDING = 128
"""Scores are padded to a multiple of this, so that ggml's vector code handles all of them; padding has weight 0."""
_NEVER = np.float32(-np.inf)


@compiled()
def attend(me, layer, position, s):
    """Compute the heads of this thread into `heads`, and add the token to the cache.

    A head of keys may serve heads of two threads. Both then write the same bits to the cache, and each reads its own.
    """
    size, per_kv, dot = s.head_dim, s.n_heads // s.n_kv_heads, s.half_dot
    window = ints_at(s.windows, s.n_layers)[layer]
    first = max(0, position + 1 - window) if window > 0 else 0
    count = position + 1 - first
    padded = -(-count // PADDING) * PADDING
    buffer, half = s.head_buffer + 8 * size * me, s.half + 2 * s.cache_size * me
    query, scores = floats_at(buffer, size), floats_at(s.scores + 4 * s.cache_size * me, padded)
    first_head, last_head = share(me, s, s.n_heads)
    remembered = -1
    for head in range(first_head, last_head):
        kv = head // per_kv
        cached = 2 * size * (layer * s.n_kv_heads + kv) * s.cache_size
        if kv != remembered:
            _remember(layer, kv, position, s, buffer + 4 * size)
            remembered = kv
        _turn(layer, 0, head, position, s, query)
        call_convert(s.to_half, buffer, half, size)
        key, target = s.keys + cached + 2 * size * first, scores.ctypes.data
        for _ in range(count):
            call_dot(dot, size, target, key, half)
            key += 2 * size
            target += 4
        _softmax(count, scores, s)
        call_convert(s.to_half, scores.ctypes.data, half, padded)
        values, target = s.values + cached + 2 * first, s.heads + 4 * size * head
        for _ in range(size):
            call_dot(dot, padded, target, values, half)
            values += 2 * s.cache_size
            target += 4


@compiled()
def _remember(layer, kv, position, s, buffer):
    """Write key and value of the token to the cache; the values of a channel are neighbours there."""
    size = s.head_dim
    cached = 2 * size * (layer * s.n_kv_heads + kv) * s.cache_size
    value = s.qkv + 4 * size * (s.n_heads + s.n_kv_heads + kv)
    call_convert(s.to_half, value, buffer, size)
    halves = halves_at(buffer, size)
    values = halves_at(s.values + cached, size * s.cache_size)
    for j in range(size):
        values[j * s.cache_size + position] = halves[j]
    _turn(layer, 1, kv, position, s, floats_at(buffer, size))
    call_convert(s.to_half, buffer, s.keys + cached + 2 * size * position, size)


@compiled()
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
        out[a] = fused(x, cosine, -(y * sine))
        out[a + apart] = fused(x, sine, y * cosine)


@compiled()
def _softmax(count, scores, s):
    """Softmax of the first `count` scores, scaled and capped; the others become 0."""
    most = _NEVER
    for i in range(count):
        scores[i] *= s.attention_scale
    if s.attention_cap > 0:
        cap_all(scores[:count], s.attention_cap)
    for i in range(count):
        most = max(most, scores[i])
    scores[count:] = _NEVER
    total = call_softmax(s.softmax, scores.size, scores.ctypes.data, most)
    inverse = np.float32(1 / total)
    for i in range(scores.size):
        scores[i] *= inverse


@compiled()
def fill_turns(table, base, scale, factors):
    """Write cosine and sine of the rotary embedding into `table (positions, pairs, 2)`, with the roundings of ggml.

    ggml multiplies the angle by the same factor from pair to pair, in float32.
    """
    pairs = table.shape[1]
    step = base ** np.float32(-2 / (2 * pairs))
    for position in range(table.shape[0]):
        angle = np.float32(position)
        for i in range(pairs):
            turned = scale * (angle / factors[i])
            table[position, i, 0], table[position, i, 1] = math.cos(turned), math.sin(turned)
            angle *= step
