"""The kernel of a feed-forward block on the CPU: it reads the rows of weights that the active set needs, and no others.

`block_kernel` is the entry. Each thread takes every n-th group of neurons through three stages:
    find    lists the neurons that may be active: all, those whose gate is active, or those the predictor selects
    hidden  computes their gate (if `find` did not), their up and `h`, and keeps the active neurons in the list
    add     adds their rows of down to the thread's part of the output

Threads share nothing while they run. Their parts are added in the order of the threads, so the output is the same in
every run with the same number of threads.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import prange

from sparsing.decode.kernels.cpu.codes import dot_4bit, dot_8bit
from sparsing.decode.kernels.cpu.compiled import compiled
from sparsing.decode.kernels.cpu.rows import FAST, add_eight, dots_of_eight, prefetch_rows
from sparsing.decode.kernels.modes import SkipMode
from sparsing.decode.kernels.packing import ZEROING
from sparsing.decode.predict.quantised import GROUP

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]

# Numba compiles plain numbers into the kernels
ALL, BY_GATE, PREDICTED = SkipMode.ALL.value, SkipMode.BY_GATE.value, SkipMode.PREDICTED.value
ACTS = ("relu", "relu2", "silu", "gelu", "gelu_tanh")
"""The activations in the order of their codes; those of `ZEROING` come first."""
NUM_ZEROING = len(ZEROING)
MOST_IN_GROUP = 128
"""The most neighbouring neurons for one thread: enough to be read as a stream, few enough to balance the threads."""


# The kernels take the fields of these records before their loops: Numba counts a reference each time that an array is
# taken from a record, which costs a few percent inside a loop.


class CutRule(NamedTuple):
    """The comparison that makes a neuron active, and the skip mode."""

    mode: int
    """`ALL`, `BY_GATE` or `PREDICTED`."""
    act: int
    """Code of the activation, its place in `ACTS`."""
    gate_cut: np.float32
    """Cut of `|act(gate)|`."""
    h_cuts: Array
    """Cut of `|h|`, shape `(d_ff,)`, float32."""


class Weights(NamedTuple):
    """The arrays of a `PackedFFN`; bfloat16 as its bits."""

    gate: Array
    up: Array
    down: Array
    scales: Array
    """Shape `(3, d_ff)`, float32; ones for weights that are not int8."""


class PredictorCopy(NamedTuple):
    """The arrays of a `LayerPredictor`; bfloat16 as its bits. Without a predictor they have no rows."""

    bits: int
    gate_codes: Array
    gate_scales: Array
    up_codes: Array
    """No rows if the gate alone is predicted."""
    up_scales: Array
    cuts: Array


class Tokens(NamedTuple):
    """The input of a call, and buffers for the same tokens as codes, which are written only for the predictor."""

    x: Array
    """Shape `(tokens, d_model)`, float32."""
    codes: Array
    """Shape `(tokens, groups * 128)`, int8."""
    starts: Array
    """Shape `(tokens, groups * 16)`, int32; see `dot_4bit`."""
    scales: Array
    """Shape `(tokens,)`, float32."""


class Listed(NamedTuple):
    """A list of neurons with their values for each token, for every thread (first axis) or for one of them."""

    neurons: Array
    """Shape `(threads, most)`, int32. `compute_hidden` moves the active neurons to the front."""
    selected: Array
    """Whether the predictor selects the neuron for a token, shape `(threads, most, tokens)`, bool."""
    gates: Array
    """Shape `(threads, most, tokens)`, float32: `act(gate)` from `find_by_gate`, else the gate before activation."""
    h: Array
    """Shape `(threads, most, tokens)`, float32."""


@compiled()
def at_or_below(size, cut):
    """The opposite of `plain.above_cut`: false if `size` is strictly above its cut, or NaN."""
    return size <= cut


@compiled()
def group_size(d_ff, threads):
    """Neighbouring neurons for one thread; small enough that frequent ones, which often stand together, are shared."""
    return max(16, min(MOST_IN_GROUP, d_ff // (4 * threads)))


@compiled()
def apply_activation(act, g):
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


@compiled()
def find_all(first, last, count, neurons):
    """List every neuron of `[first, last)` behind the `count` listed ones; returns the new count."""
    for i in range(first, last):
        neurons[count + i - first] = i
    return count + last - first


@compiled(fastmath=FAST)
def find_by_gate(first, last, count, rule, weights, x, listed):
    """List the neurons of `[first, last)` whose gate is active for any token, with their gates."""
    _, act, gate_cut, _ = rule
    neurons, _, gates, _ = listed
    gate, _, _, scales = weights
    for eight in range(first, last, 8):
        at, values = neurons[count : count + 8], gates[count : count + 8]
        for r in range(8):
            at[r] = min(eight + r, last - 1)
        dots_of_eight(gate, at, x, values)
        # the gates are overwritten in place: `count` never runs ahead of the gate that is read
        for r in range(min(8, last - eight)):
            wanted = False
            for token in range(x.shape[0]):
                g = apply_activation(act, values[r, token] * scales[0, eight + r])
                gates[count, token] = g
                wanted |= not at_or_below(abs(g), gate_cut)
            if wanted:
                neurons[count] = eight + r
                count += 1
    return count


@compiled(fastmath=FAST)
def find_predicted(first, last, count, rule, predictor, tokens, listed):
    """List the neurons of `[first, last)` that the predictor selects for any token, and note for which tokens."""
    bits, gate_codes, gate_scales, up_codes, up_scales, cuts = predictor
    _, codes, starts, scales = tokens
    act, neurons, selected = rule.act, listed.neurons, listed.selected
    with_up = up_codes.shape[0] > 0
    for i in range(first, last):
        wanted = False
        for token in range(codes.shape[0]):
            if bits == 4:
                g = dot_4bit(gate_codes, gate_scales, i, codes, starts, token)
            else:
                g = dot_8bit(gate_codes, gate_scales, i, codes, starts, token)
            size = g * scales[token]  # a zeroing activation keeps the sign, see `LayerPredictor.sizes`
            if act >= NUM_ZEROING:
                size = abs(apply_activation(act, size))
            if with_up:
                if bits == 4:
                    u = dot_4bit(up_codes, up_scales, i, codes, starts, token)
                else:
                    u = dot_8bit(up_codes, up_scales, i, codes, starts, token)
                size *= abs(u * scales[token])
            selected[count, token] = not at_or_below(size, cuts[i])
            wanted |= selected[count, token]
        if wanted:
            neurons[count] = i
            count += 1
    return count


@compiled()
def whole_eights(count):
    """`count` rounded up to a multiple of 8."""
    return (count + 7) // 8 * 8


@compiled()
def fill_up(count, neurons):
    """Repeat the last neuron up to a whole eight; the second reading of a row comes from the cache."""
    for place in range(count, whole_eights(count)):
        neurons[place] = neurons[count - 1]


@compiled(fastmath=FAST)
def compute_hidden(count, rule, weights, x, listed):
    """Compute `h` times down's scale for the listed neurons, move the active ones to the front, return their number."""
    mode, act, gate_cut, h_cuts = rule
    gate, up, _, scales = weights
    by_gate = mode == BY_GATE
    neurons, selected, gates, h = listed
    for eight in range(0, count, 8):
        at, following = neurons[eight : eight + 8], neurons[eight + 8 : min(eight + 16, whole_eights(count))]
        # prefetch the rows that are read next, so that memory works while this eight is multiplied
        if not by_gate:
            prefetch_rows(up, at)
            dots_of_eight(gate, at, x, gates[eight : eight + 8])
            prefetch_rows(gate, following)
        else:
            prefetch_rows(up, following)
        dots_of_eight(up, at, x, h[eight : eight + 8])
    kept = 0
    for place in range(count):
        i, wanted = neurons[place], False
        for token in range(x.shape[0]):
            g = gates[place, token]
            if not by_gate:
                g = apply_activation(act, g * scales[0, i])
            value = g * (h[place, token] * scales[1, i])
            # a token uses only what was selected for itself, so that its result does not depend on its batch
            inactive = mode == PREDICTED and not selected[place, token]
            inactive |= at_or_below(abs(g), gate_cut) or at_or_below(abs(value), h_cuts[i])
            h[kept, token] = np.float32(0) if inactive else value * scales[2, i]
            wanted |= not inactive
        if wanted:
            neurons[kept] = i
            kept += 1
    return kept


@compiled(fastmath=FAST)
def add_down(kept, down, listed, y):
    """Add the rows of `down` of the first `kept` listed neurons, times `h`, to `y`."""
    neurons, h = listed.neurons, listed.h
    h[kept : whole_eights(kept)] = 0  # the repeated neurons of the last eight add nothing
    for eight in range(0, kept, 8):
        prefetch_rows(down, neurons[eight + 8 : min(eight + 16, whole_eights(kept))])
        add_eight(down, neurons[eight : eight + 8], h[eight : eight + 8], y)


@compiled(fastmath=FAST)
def run_thread(thread, rule, weights, predictor, tokens, lists, y, counts):
    """The part of one thread: every n-th group of neurons, into `y (tokens, d_model)` and `counts (3,)`."""
    rule, weights, tokens = CutRule(*rule), Weights(*weights), Tokens(*tokens)
    predictor, lists = PredictorCopy(*predictor), Listed(*lists)
    listed = Listed(lists.neurons[thread], lists.selected[thread], lists.gates[thread], lists.h[thread])
    threads, d_ff, count = lists.neurons.shape[0], rule.h_cuts.size, 0
    group = group_size(d_ff, threads)
    for first in range(thread * group, d_ff, threads * group):
        last = min(first + group, d_ff)
        if rule.mode == ALL:
            count = find_all(first, last, count, listed.neurons)
        elif rule.mode == BY_GATE:
            count = find_by_gate(first, last, count, rule, weights, tokens.x, listed)
            counts[0] += last - first
        else:
            count = find_predicted(first, last, count, rule, predictor, tokens, listed)
    fill_up(count, listed.neurons)
    kept = compute_hidden(count, rule, weights, tokens.x, listed)
    fill_up(kept, listed.neurons)
    y[:] = 0
    add_down(kept, weights.down, listed, y)
    if rule.mode != BY_GATE:
        counts[0] += count
    counts[1] += count
    counts[2] += kept


@compiled()
def write_token_codes(offset, x, codes, starts, scales):
    """Write the tokens as int8 by `max |x| / 127`, with the start of each group's sum, `-offset * sum(codes)`.

    A token that is not finite gets the scale NaN. The predictor then selects every neuron, and the exact rows carry the
    NaN or infinity to the output.
    """
    for token in range(x.shape[0]):
        most, total = np.float32(0), np.float32(0)
        for j in range(x.shape[1]):
            size = abs(x[token, j])
            total += size
            most = max(most, size)
        codes[token] = 0
        starts[token] = 0
        if not total < np.inf:  # the sum, since `max` drops a NaN
            scales[token] = np.nan
            continue
        scales[token] = most / np.float32(127)
        if most == 0:
            continue
        inverse = np.float32(127) / most
        for j in range(x.shape[1]):
            code = np.int32(np.rint(x[token, j] * inverse))
            codes[token, j] = code
            starts[token, j // GROUP * 16] -= offset * code


@compiled(fastmath=FAST, parallel=True)
def block_kernel(rule, weights, predictor, tokens, lists, parts, counts, y):
    """Compute the block into `y (tokens, d_model)`, float32.

    The first five arguments are a `CutRule`, `Weights`, `PredictorCopy`, `Tokens` and `Listed` as plain tuples, which
    `run_thread` turns into records: Numba cannot hand records to its threads, and a call from Python takes 1.4
    microseconds less with tuples.

    Args:
        parts: Each thread's part of the output, shape `(threads, tokens, d_model)`, float32.
        counts: Rows of gate, up and down that each thread has read, shape `(threads, 3)`, int64; added to.
    """
    if rule[0] == PREDICTED:
        bits = predictor[0]
        write_token_codes(2 ** (bits - 1), *tokens)
    for thread in prange(parts.shape[0]):
        run_thread(thread, rule, weights, predictor, tokens, lists, parts[thread], counts[thread])
    y[:] = parts[0]
    for thread in range(1, parts.shape[0]):
        y += parts[thread]
