# Triton's compiler types the bodies of kernels: it turns `tl.constexpr` parameters into numbers and pointers into
# tensors, which Python annotations cannot express. The three rules below would reject nearly every line of a kernel.
# pyright: reportArgumentType=false, reportOperatorIssue=false, reportGeneralTypeIssues=false
"""The Triton kernels of a block, in the order they run: find the active set, compute `h` on it, add its rows of down.

Several tokens share one list, the union of their active sets; `h` is then masked for each token by itself. Grids do not
depend on the active set: a program without neurons ends at once, so a captured CUDA graph serves every token.

The parameters of a kernel are in this order: inputs, buffers that it writes, numbers, and sizes in capitals, for which
it is compiled. All tensors are pointers to C-contiguous memory. `launches.py` passes all parameters by name.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sparsing.decode.kernels.gpu.lists import append, find
from sparsing.decode.kernels.gpu.products import activate, code_products, exceeds_cut, matmul, row_products
from sparsing.decode.kernels.modes import SkipMode

# kernels read global numbers only as `tl.constexpr`
DENSE = tl.constexpr(SkipMode.DENSE.value)
BY_GATE = tl.constexpr(SkipMode.BY_GATE.value)
PREDICTED = tl.constexpr(SkipMode.PREDICTED.value)


@triton.jit
def quantise(x, codes, scales, D_MODEL: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """Write one token as int8 by `max |x| / 127`, padded with zeros to `WIDTH`; scale NaN if it is not finite."""
    token = tl.program_id(0)
    d = tl.arange(0, PADDED)
    values = tl.load(x + token * D_MODEL + d, mask=d < D_MODEL, other=0.0).to(tl.float32)
    finite = tl.abs(values) < float("inf")
    values = tl.where(finite, values, 0.0)
    most = tl.max(tl.abs(values), 0)
    scaled = values * (127 / tl.where(most > 0, most, 1.0))
    nearest = (scaled + 12582912.0) - 12582912.0  # rounds: near 1.5 * 2**23 a float32 has no fraction
    tl.store(codes + token * WIDTH + d, nearest.to(tl.int8), mask=d < WIDTH)
    tl.store(scales + token, tl.where(tl.min(finite.to(tl.int32), 0) == 1, most / 127, float("nan")))


@triton.jit
def gate_pass(
    # inputs
    x,
    gate,
    # written
    gates,
    entries,
    sizes,
    # numbers
    tokens,
    cut,
    # sizes of the block
    D_MODEL: tl.constexpr,
    D_FF: tl.constexpr,
    ACT: tl.constexpr,
    # sizes of the tiles
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Write `act(gate)` of `ROWS` neurons to `gates (tokens, D_FF)`; list those above `cut` (>= 0) for any token."""
    tile = tl.program_id(0)
    neurons = tile * ROWS + tl.arange(0, ROWS)
    keep = neurons < D_FF
    token = tl.arange(0, TOKENS)
    rows = gate + neurons * D_MODEL
    sums, _ = row_products(x, rows, rows, keep, tokens, False, D_MODEL, TOKENS, BLOCK, STAGES)
    size = activate(sums, ACT)
    valid = (token < tokens)[:, None] & keep[None, :]
    tl.store(gates + token[:, None] * D_FF + neurons[None, :], size, mask=valid)
    wanted = valid & exceeds_cut(tl.abs(size), cut)
    needed = tl.max(wanted.to(tl.int32), 0) > 0
    tl.store(sizes + tile, append(entries, tile * ROWS, 0, neurons, needed))


@triton.jit
def predict_pass(
    # inputs: quantised tokens, and the predictor's copy of gate and up
    x,
    x_scales,
    gate_codes,
    gate_scales,
    up_codes,
    up_scales,
    cuts,
    # written
    votes,
    entries,
    sizes,
    # numbers
    tokens,
    # sizes of the predictor
    D_FF: tl.constexpr,
    GROUPS: tl.constexpr,
    BITS: tl.constexpr,
    WITH_UP: tl.constexpr,
    ACT: tl.constexpr,
    # sizes of the tiles
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
    STAGES: tl.constexpr,
):
    """List the neurons of a tile that are predicted active for any token; bit `t` of a vote is set for token `t`.

    The predicted sizes are those of `LayerPredictor.sizes`.
    """
    tile = tl.program_id(0)
    neurons = tile * ROWS + tl.arange(0, ROWS)
    keep = neurons < D_FF
    token = tl.arange(0, TOKENS)
    scale = tl.load(x_scales + token, mask=token < tokens, other=0.0)[:, None]
    gate = code_products(
        x, gate_codes, gate_scales, neurons, keep, tokens, GROUPS, BITS, TOKENS, CHUNK, STAGES
    )
    size = gate * scale
    if ACT != "relu" and ACT != "relu2":  # the activations of `packing.ZEROING` keep the sign of the gate
        size = tl.abs(activate(size, ACT))
    if WITH_UP:
        up = code_products(x, up_codes, up_scales, neurons, keep, tokens, GROUPS, BITS, TOKENS, CHUNK, STAGES)
        size = size * tl.abs(up * scale)
    cut = tl.load(cuts + neurons, mask=keep, other=0.0)
    wanted = (token < tokens)[:, None] & keep[None, :] & exceeds_cut(size, cut[None, :])
    vote = tl.sum(wanted.to(tl.int32) << token[:, None], 0)
    tl.store(votes + neurons, vote, mask=keep)
    tl.store(sizes + tile, append(entries, tile * ROWS, 0, neurons, vote != 0))


@triton.jit
def hidden_pass(
    # inputs
    x,
    gate,
    up,
    h_cuts,
    # inputs from the first pass: gates of BY_GATE, votes of PREDICTED, and the list of both
    gates,
    votes,
    candidates,
    candidate_sizes,
    # written
    h,
    entries,
    sizes,
    read,
    # numbers
    tokens,
    gate_cut,
    # sizes of the block
    MODE: tl.constexpr,
    D_MODEL: tl.constexpr,
    D_FF: tl.constexpr,
    ACT: tl.constexpr,
    # sizes of the lists: `candidates` has segments of this many entries, and their number is padded to a power of two
    CANDIDATE_SEGMENT: tl.constexpr,
    CANDIDATE_PADDED: tl.constexpr,
    PROGRAMS: tl.constexpr,
    # sizes of the tiles
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Compute `h (tokens, D_FF)` of the neurons in `candidates`; list the neurons whose `h` is active for any token.

    Every program takes the same number of neurons, whatever segments they are in. Without a first pass there is no list
    of candidates, and the programs share all neurons.
    """
    program = tl.program_id(0)
    SEGMENT: tl.constexpr = (D_FF + PROGRAMS - 1) // PROGRAMS
    LISTED: tl.constexpr = MODE >= BY_GATE
    CANDIDATE_SEGMENTS: tl.constexpr = (D_FF + CANDIDATE_SEGMENT - 1) // CANDIDATE_SEGMENT
    if LISTED:
        tile = tl.arange(0, CANDIDATE_PADDED)
        listed = tl.load(candidate_sizes + tile, mask=tile < CANDIDATE_SEGMENTS, other=0)
        ends = tl.cumsum(listed, 0)
        total = tl.sum(listed, 0)
    else:
        total = D_FF
    if program == 0:
        _add(read, D_FF if MODE == BY_GATE else total)
        _add(read + 1, total)
        _add(read + 3, 1 if MODE == PREDICTED else 0)
    share = (total + PROGRAMS - 1) // PROGRAMS
    end = tl.minimum((program + 1) * share, total)
    token, row = tl.arange(0, TOKENS), tl.arange(0, ROWS)
    kept = 0
    for first in range(program * share, end, ROWS):
        slots = first + row
        live = slots < end
        place = find(listed, ends, slots, CANDIDATE_SEGMENT) if LISTED else slots
        neurons = tl.load(candidates + place, mask=live, other=0) if LISTED else slots
        valid = (token < tokens)[:, None] & live[None, :]
        at = token[:, None] * D_FF + neurons[None, :]
        ups, sums = row_products(
            x,
            up + neurons * D_MODEL,
            gate + neurons * D_MODEL,
            live,
            tokens,
            MODE != BY_GATE,
            D_MODEL,
            TOKENS,
            BLOCK,
            STAGES,
        )
        size = tl.load(gates + at, mask=valid, other=0.0) if MODE == BY_GATE else activate(sums, ACT)
        value = size * ups
        if MODE == DENSE:
            needed = live
        else:
            h_cut = tl.load(h_cuts + neurons, mask=live, other=0.0)[None, :]
            active = exceeds_cut(tl.abs(size), gate_cut) & exceeds_cut(tl.abs(value), h_cut)
            if MODE == PREDICTED:
                vote = tl.load(votes + neurons, mask=live, other=0)[None, :]
                # a token uses only what was selected for itself, so that its result does not depend on its batch
                active = active & (((vote >> token[:, None]) & 1) != 0)
            value = tl.where(active, value, 0.0)
            needed = tl.max((valid & (value != 0)).to(tl.int32), 0) > 0
        tl.store(h + at, value, mask=valid)
        kept = append(entries, program * SEGMENT, kept, neurons, needed)
    tl.store(sizes + program, kept)


@triton.jit
def down_pass(
    # inputs
    h,
    down,
    entries,
    sizes,
    # written
    parts,
    # numbers
    tokens,
    # sizes of the block and of the list
    D_MODEL: tl.constexpr,
    D_FF: tl.constexpr,
    PROGRAMS: tl.constexpr,
    SPLITS: tl.constexpr,
    # sizes of the tiles
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write `sum h_i down_i`, over one split of the list and `BLOCK` columns, to `parts (SPLITS, tokens, D_MODEL)`."""
    split = tl.program_id(1)
    SEGMENT: tl.constexpr = (D_FF + PROGRAMS - 1) // PROGRAMS
    SHARE: tl.constexpr = PROGRAMS // SPLITS  # segments of a split
    start = split * SHARE
    listed = tl.load(sizes + start + tl.arange(0, SHARE))
    ends = tl.cumsum(listed, 0)
    total = tl.sum(listed, 0)
    d = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    token, row = tl.arange(0, TOKENS), tl.arange(0, ROWS)
    sums = tl.zeros((ROWS if TOKENS == 1 else TOKENS, BLOCK), tl.float32)
    for first in range(0, total, ROWS):
        slots = first + row
        live = slots < total
        neurons = tl.load(entries + start * SEGMENT + find(listed, ends, slots, SEGMENT), mask=live, other=0)
        valid = live[:, None] & (d < D_MODEL)[None, :]
        weights = tl.load(down + neurons[:, None] * D_MODEL + d[None, :], mask=valid, other=0.0)
        if TOKENS == 1:
            value = tl.load(h + neurons, mask=live, other=0.0)
            sums += value[:, None] * weights.to(tl.float32)
        else:
            at = token[:, None] * D_FF + neurons[None, :]
            value = tl.load(h + at, mask=(token < tokens)[:, None] & live[None, :], other=0.0)
            sums = matmul(value.to(weights.dtype), weights, sums)
    result = tl.sum(sums, 0)[None, :] if TOKENS == 1 else sums
    at = (split * tokens + token)[:, None] * D_MODEL + d[None, :]
    tl.store(parts + at, result, mask=(token < tokens)[:, None] & (d < D_MODEL)[None, :])


@triton.jit
def add_parts(
    parts,
    y,
    sizes,
    read,
    tokens,
    D_MODEL: tl.constexpr,
    PROGRAMS: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write `y`, the sum of the parts of all splits, always in the same order; program 0 counts the rows of down."""
    token = tl.program_id(1)
    if (tl.program_id(0) == 0) & (token == 0):
        _add(read + 2, tl.sum(tl.load(sizes + tl.arange(0, PROGRAMS)), 0))
    d = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    split = tl.arange(0, SPLITS)
    at = (split * tokens + token)[:, None] * D_MODEL + d[None, :]
    values = tl.load(parts + at, mask=(d < D_MODEL)[None, :], other=0.0)
    tl.store(y + token * D_MODEL + d, tl.sum(values, 0), mask=d < D_MODEL)


@triton.jit
def _add(counter, number):
    """Add to a counter. No other program of the launch may change it, since this is no atomic operation."""
    tl.store(counter, tl.load(counter) + number)
