# Triton's compiler decides the types in a kernel: a `tl.constexpr` parameter is a number, and a pointer is a tensor.
# Python annotations cannot express this, so the three rules that are disabled here would reject nearly every line.
# pyright: reportArgumentType=false, reportOperatorIssue=false, reportGeneralTypeIssues=false
"""The Triton kernels of one feed-forward block, in the order in which they run.

First pass (not in every mode): `gate_pass`, or `quantise` and `predict_pass`, lists the candidate neurons. Then
`hidden_pass` computes `h` of the candidates and lists the active neurons. `down_pass` and `add_parts` sum the rows of
`down` of the active neurons.

All tokens of a batch share one list of neurons: the union of their active sets. `hidden_pass` then sets `h` to 0 for
each token on which a listed neuron is not active. The grid of a launch does not depend on the active set: a program
without neurons returns at once, so one captured CUDA graph serves every token.

The parameters of a kernel have this order: inputs, output buffers, numbers, and compile-time sizes in capitals. Tensors
are passed as pointers to C-contiguous memory. `launches.py` passes all parameters by name.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sparsing.decode.kernels.gpu.lists import append, find
from sparsing.decode.kernels.gpu.products import activate, code_products, exceeds_cut, matmul, row_products
from sparsing.decode.kernels.modes import SkipMode

# a Triton kernel can read a global number only if the number is a `tl.constexpr`
DENSE = tl.constexpr(SkipMode.DENSE.value)
BY_GATE = tl.constexpr(SkipMode.BY_GATE.value)
PREDICTED = tl.constexpr(SkipMode.PREDICTED.value)


@triton.jit
def quantise(x, codes, scales, D_MODEL: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """Quantise one token to int8 with the scale `max |x| / 127`; the codes are padded with zeros to `WIDTH`.

    The scale of a token with an infinite or NaN entry is NaN.
    """
    token = tl.program_id(0)
    d = tl.arange(0, PADDED)
    values = tl.load(x + token * D_MODEL + d, mask=d < D_MODEL, other=0.0).to(tl.float32)
    finite = tl.abs(values) < float("inf")
    values = tl.where(finite, values, 0.0)
    largest = tl.max(tl.abs(values), 0)
    scaled = values * (127 / tl.where(largest > 0, largest, 1.0))
    # rounds to the nearest integer: float32 numbers near 12582912 = 1.5 * 2**23 have no fractional bits
    nearest = (scaled + 12582912.0) - 12582912.0
    tl.store(codes + token * WIDTH + d, nearest.to(tl.int8), mask=d < WIDTH)
    tl.store(scales + token, tl.where(tl.min(finite.to(tl.int32), 0) == 1, largest / 127, float("nan")))


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
    """Compute `act(gate)` of `ROWS` neurons, and list the neurons with `|act(gate)| > cut` for any token.

    gates: Receives `act(gate)`, shape `(tokens, D_FF)`.
    cut: At least 0.
    """
    tile = tl.program_id(0)
    neurons = tile * ROWS + tl.arange(0, ROWS)
    keep = neurons < D_FF
    token = tl.arange(0, TOKENS)
    rows = gate + neurons * D_MODEL
    sums, _ = row_products(x, rows, rows, keep, tokens, False, D_MODEL, TOKENS, BLOCK, STAGES)
    activation = activate(sums, ACT)
    valid = (token < tokens)[:, None] & keep[None, :]
    tl.store(gates + token[:, None] * D_FF + neurons[None, :], activation, mask=valid)
    wanted = valid & exceeds_cut(tl.abs(activation), cut)
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
    """List the neurons of a tile that are predicted active for any token, and write one vote per neuron.

    A neuron is predicted active if its predicted size, computed as in `LayerPredictor.sizes`, exceeds its cut.

    votes: Receives a bit mask per neuron, shape `(D_FF,)`: bit `t` is set if the neuron is predicted active for token
        `t`.
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
    if ACT != "relu" and ACT != "relu2":  # for `packing.ZEROING` the size is the gate with its sign
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
    # outputs of the first pass: `gates` in mode BY_GATE, `votes` in mode PREDICTED, and the candidates in both modes
    gates,
    votes,
    candidates,
    candidate_sizes,
    # written; `read` holds the counters `Workspace.read`
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
    # sizes of the lists: entries per segment of `candidates`, the number of its segments rounded up to a power of two,
    # and the number of programs, each of which writes one segment of `entries`
    CANDIDATE_SEGMENT: tl.constexpr,
    CANDIDATE_PADDED: tl.constexpr,
    PROGRAMS: tl.constexpr,
    # sizes of the tiles
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Compute `h` of the candidates, and list the neurons that are active for any token.

    The candidates are divided equally among the programs, across the boundaries of segments. The modes without a first
    pass have no list of candidates, so the programs divide all `D_FF` neurons.

    h: Receives `h` of the candidates, shape `(tokens, D_FF)`; 0 where a candidate is not active for the token. The
        entries of all other neurons are not written.
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
        activation = tl.load(gates + at, mask=valid, other=0.0) if MODE == BY_GATE else activate(sums, ACT)
        value = activation * ups
        if MODE == DENSE:
            needed = live
        else:
            h_cut = tl.load(h_cuts + neurons, mask=live, other=0.0)[None, :]
            active = exceeds_cut(tl.abs(activation), gate_cut) & exceeds_cut(tl.abs(value), h_cut)
            if MODE == PREDICTED:
                vote = tl.load(votes + neurons, mask=live, other=0)[None, :]
                # a token uses only its own predicted neurons, so the other tokens of the batch cannot change its result
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
    """Sum `h[i] * down[i]` over the listed neurons `i` of one split, for `BLOCK` columns of the output.

    A split is a group of neighbouring segments of the list.

    parts: Receives the sums, shape `(SPLITS, tokens, D_MODEL)`.
    """
    split = tl.program_id(1)
    SEGMENT: tl.constexpr = (D_FF + PROGRAMS - 1) // PROGRAMS
    SHARE: tl.constexpr = PROGRAMS // SPLITS  # segments per split
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
    """Sum the parts of all splits in a fixed order and write the sums to `y`, shape `(tokens, D_MODEL)`.

    The first program also counts the rows of `down` that were read, in `read[2]`.
    """
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
    """Add `number` to a counter. The addition is not atomic, so only one program of a launch may change the counter."""
    tl.store(counter, tl.load(counter) + number)
