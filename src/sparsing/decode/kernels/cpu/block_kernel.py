"""The feed-forward block on the CPU: one pass over the neurons, reading only what the active set needs.

Each thread takes every n-th group of neurons through three stages:
    find    which neurons may be active: all, those whose gate passes, or those the predictor names
    hidden  gate (if not known yet) and up of these, `h`, and the test that makes a neuron active
    add     the rows of down of the active ones
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

from sparsing.decode.kernels.cpu.lanes import dot_4bit, dot_8bit
from sparsing.decode.kernels.cpu.rows import FAST, add_eight, announce, dots_of_eight
from sparsing.decode.predict.quantised import GROUP

ALL, BY_GATE, PREDICTED = range(3)
"""How `find` finds."""
ACTS = ("relu", "relu2", "silu", "gelu", "gelu_tanh")
"""Order of the activation codes; the first two are zero for every input at or below zero."""
LAST_ZEROING = 1
MOST_IN_GROUP = 128
"""Neighbouring neurons that go to one thread: long enough to be read as a stream, short enough to share out."""


@njit(nogil=True, cache=True)
def group_size(d_ff, threads):
    """Neurons of a group, so that every thread gets some; frequent neurons often stand together."""
    return max(16, min(MOST_IN_GROUP, d_ff // (4 * threads)))


@njit(nogil=True, cache=True)
def activate(act, g):
    """The activation with this code; NaN stays NaN."""
    if act == 0:
        return np.float32(0) if g <= 0 else g
    if act == 1:
        return np.float32(0) if g <= 0 else g * g
    if act == 2:
        return g / (np.float32(1) + np.float32(math.exp(-g)))
    if act == 3:
        return (
            np.float32(0.5) * g * (np.float32(1) + np.float32(math.erf(g * np.float32(0.7071067811865476))))
        )
    inner = np.float32(0.7978845608028654) * (g + np.float32(0.044715) * g * g * g)
    return np.float32(0.5) * g * (np.float32(1) + np.float32(math.tanh(inner)))


@njit(nogil=True, cache=True)
def find_all(first, last, count, found):
    """Every neuron of `[first, last)`; returns how many `found` holds then, `count` of them from before."""
    for i in range(first, last):
        found[count + i - first] = i
    return count + last - first


@njit(fastmath=FAST, nogil=True, cache=True)
def find_by_gate(first, last, count, gate, scales, x, act, gate_cut, found, gates):
    """Those whose `|act(gate)|` is above its cut for a token, their gates beside them."""
    for eight in range(first, last, 8):
        at, values = found[count : count + 8], gates[count : count + 8]
        for r in range(8):
            at[r] = min(eight + r, last - 1)
        dots_of_eight(gate, at, x, values)
        for r in range(min(8, last - eight)):
            wanted = False
            for token in range(x.shape[0]):
                g = activate(act, values[r, token] * scales[0, eight + r])
                gates[count, token] = g
                wanted |= not (abs(g) <= gate_cut)
            if wanted:
                found[count] = eight + r
                count += 1
    return count


@njit(fastmath=FAST, nogil=True, cache=True)
def find_predicted(first, last, count, predictor, tokens, act, found, named):
    """Those that the predictor names for a token, and for which in `named`."""
    bits, gate_codes, gate_scales, up_codes, up_scales, cuts, x_codes, x_start, x_scale = predictor
    with_up = up_codes.shape[0] > 0
    for i in range(first, last):
        wanted = False
        for token in range(tokens):
            if bits == 4:
                g = dot_4bit(gate_codes, gate_scales, i, x_codes, x_start, token)
            else:
                g = dot_8bit(gate_codes, gate_scales, i, x_codes, x_start, token)
            size = g * x_scale[token]  # with its sign under a zeroing activation
            if act > LAST_ZEROING:
                size = abs(activate(act, size))
            if with_up:
                if bits == 4:
                    u = dot_4bit(up_codes, up_scales, i, x_codes, x_start, token)
                else:
                    u = dot_8bit(up_codes, up_scales, i, x_codes, x_start, token)
                size *= abs(u * x_scale[token])
            named[count, token] = not (size <= cuts[i])
            wanted |= named[count, token]
        if wanted:
            found[count] = i
            count += 1
    return count


@njit(nogil=True, cache=True)
def fill_up(count, found):
    """Repeat the last neuron until `found` holds whole eights; a row read twice comes from the cache."""
    for place in range(count, (count + 7) // 8 * 8):
        found[place] = found[count - 1]


@njit(fastmath=FAST, nogil=True, cache=True)
def hidden(how, count, weights, x, act, gate_cut, h_cut, found, named, gates, h):
    """`h` of the neurons in `found`, times down's scale; those above their cuts move to the front; returns how many."""
    gate, up, _, scales = weights
    for eight in range(0, count, 8):
        at, following = found[eight : eight + 8], found[eight + 8 : min(eight + 16, (count + 7) // 8 * 8)]
        if how != BY_GATE:
            announce(up, at)
            dots_of_eight(gate, at, x, gates[eight : eight + 8])
            announce(gate, following)
        else:
            announce(up, following)
        dots_of_eight(up, at, x, h[eight : eight + 8])
    kept = 0
    for place in range(count):
        i, wanted = found[place], False
        for token in range(x.shape[0]):
            g = gates[place, token]
            if how != BY_GATE:
                g = activate(act, g * scales[0, i])
            value = g * (h[place, token] * scales[1, i])
            # a token takes what was predicted for itself, whatever its batch reads
            inactive = how == PREDICTED and not named[place, token]
            inactive |= abs(g) <= gate_cut or abs(value) <= h_cut[i]
            h[kept, token] = np.float32(0) if inactive else value * scales[2, i]
            wanted |= not inactive
        if wanted:
            found[kept] = i
            kept += 1
    return kept


@njit(fastmath=FAST, nogil=True, cache=True)
def add(kept, down, active, h, y):
    """Add the neurons in `active` to `y`."""
    h[kept : (kept + 7) // 8 * 8] = 0  # what only fills the last eight adds nothing
    for eight in range(0, kept, 8):
        announce(down, active[eight + 8 : min(eight + 16, (kept + 7) // 8 * 8)])
        add_eight(down, active[eight : eight + 8], h[eight : eight + 8], y)


@njit(fastmath=FAST, nogil=True, cache=True)
def work(how, thread, weights, predictor, x, act, gate_cut, h_cut, room, y, counts):
    """One thread's part: every n-th group of neurons."""
    found, named, gates, h = room[0][thread], room[1][thread], room[2][thread], room[3][thread]
    threads, d_ff, count = room[0].shape[0], h_cut.size, 0
    group = group_size(d_ff, threads)
    for first in range(thread * group, d_ff, threads * group):
        last = min(first + group, d_ff)
        if how == ALL:
            count = find_all(first, last, count, found)
        elif how == BY_GATE:
            count = find_by_gate(first, last, count, weights[0], weights[3], x, act, gate_cut, found, gates)
            counts[0] += last - first
        else:
            count = find_predicted(first, last, count, predictor, x.shape[0], act, found, named)
    fill_up(count, found)
    kept = hidden(how, count, weights, x, act, gate_cut, h_cut, found, named, gates, h)
    fill_up(kept, found)
    y[:] = 0
    add(kept, weights[2], found, h, y)
    if how != BY_GATE:
        counts[0] += count
    counts[1] += count
    counts[2] += kept


@njit(nogil=True, cache=True)
def quantise(x, offset, codes, start, scale):
    """Tokens as int8 by `max |x| / 127`, and what the sum of each `GROUP` begins with: `-offset * sum(codes)`.

    A token that is not finite gets the scale NaN: everything is then predicted active, and the exact rows say what
    comes of it.
    """
    for token in range(x.shape[0]):
        most, total = np.float32(0), np.float32(0)
        for j in range(x.shape[1]):
            size = abs(x[token, j])
            total += size
            most = max(most, size)
        codes[token] = 0
        start[token] = 0
        if not total < np.inf:
            scale[token] = np.nan
            continue
        scale[token] = most / np.float32(127)
        if most == 0:
            continue
        inverse = np.float32(127) / most
        for j in range(x.shape[1]):
            code = np.int32(np.rint(x[token, j] * inverse))
            codes[token, j] = code
            start[token, j // GROUP * 16] -= offset * code


@njit(fastmath=FAST, nogil=True, parallel=True, cache=True)
def block_kernel(how, weights, copy, codes, x, act, gate_cut, h_cut, room, parts, counts, y):
    """`y (tokens, d_model)` of the block for `x (tokens, d_model)`, both float32."""
    if how == PREDICTED:
        quantise(x, 2 ** (copy[0] - 1), *codes)
    predictor = copy + codes
    for thread in prange(parts.shape[0]):
        work(how, thread, weights, predictor, x, act, gate_cut, h_cut, room, parts[thread], counts[thread])
    y[:] = parts[0]
    for thread in range(1, parts.shape[0]):
        y += parts[thread]
