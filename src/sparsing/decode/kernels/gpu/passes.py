# pyright: reportArgumentType=false, reportOperatorIssue=false, reportGeneralTypeIssues=false
"""The Triton kernels of a block, in the order they run: find the active set, compute `h` on it, add its rows of down.

Several tokens share one list, the union of their sets; each token's own rule is applied to `h`. Grids do not depend
on what is active: a program whose share is empty ends at once, so a captured CUDA graph serves every token.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sparsing.decode.kernels.gpu.lists import append, find
from sparsing.decode.kernels.gpu.products import activate, code_products, matmul, row_products

DENSE = tl.constexpr(0)
"""Every row of all three matrices, nothing cut."""
ALL = tl.constexpr(1)
"""Every row of gate and up, down where `h` is active: for an activation that leaves nothing at zero."""
BY_GATE = tl.constexpr(2)
"""Every row of gate, up where the gate is active, down where `h` is."""
PREDICTED = tl.constexpr(3)
"""Gate and up where the predictor says so, down where `h` is active."""


@triton.jit
def quantise(x, codes, scales, D_MODEL: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """One token as int8 by `max |x| / 127`, padded with zeros to `WIDTH`; a NaN scale where it is not finite."""
    token = tl.program_id(0)
    d = tl.arange(0, PADDED)
    values = tl.load(x + token * D_MODEL + d, mask=d < D_MODEL, other=0.0).to(tl.float32)
    finite = tl.abs(values) < float("inf")
    values = tl.where(finite, values, 0.0)
    most = tl.max(tl.abs(values), 0)
    scaled = values * (127 / tl.where(most > 0, most, 1.0))
    nearest = (scaled + 12582912.0) - 12582912.0  # 1.5 * 2**23: the sum has no bits left for a fraction
    tl.store(codes + token * WIDTH + d, nearest.to(tl.int8), mask=d < WIDTH)
    tl.store(scales + token, tl.where(tl.min(finite.to(tl.int32), 0) == 1, most / 127, float("nan")))


@triton.jit
def gate_pass(
    x,
    gate,
    gates,
    entries,
    sizes,
    tokens,
    cut,
    D_MODEL: tl.constexpr,
    D_FF: tl.constexpr,
    ACT: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
):
    """`act(gate)` of `ROWS` neurons, kept in `gates (tokens, D_FF)`; lists those with one above `cut` (>= 0)."""
    tile = tl.program_id(0)
    neurons = tile * ROWS + tl.arange(0, ROWS)
    keep = neurons < D_FF
    token = tl.arange(0, TOKENS)
    rows = gate + neurons * D_MODEL
    sums, _ = row_products(x, rows, rows, keep, tokens, False, D_MODEL, TOKENS, BLOCK, STAGES)
    size = activate(sums, ACT)
    here = (token < tokens)[:, None] & keep[None, :]
    tl.store(gates + token[:, None] * D_FF + neurons[None, :], size, mask=here)
    wanted = here & ((tl.abs(size) > cut) | (size != size))
    needed = tl.max(wanted.to(tl.int32), 0) > 0
    tl.store(sizes + tile, append(entries, tile * ROWS, 0, neurons, needed))


@triton.jit
def predict_pass(
    x,
    x_scales,
    gate_codes,
    gate_scales,
    up_codes,
    up_scales,
    cuts,
    votes,
    entries,
    sizes,
    tokens,
    D_FF: tl.constexpr,
    GROUPS: tl.constexpr,
    BITS: tl.constexpr,
    WITH_UP: tl.constexpr,
    ACT: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Lists the neurons of a tile that are predicted active; bit `t` of their vote says that token `t` wants them.

    Their predicted size is that of `LayerPredictor.sizes`.
    """
    tile = tl.program_id(0)
    neurons = tile * ROWS + tl.arange(0, ROWS)
    keep = neurons < D_FF
    token = tl.arange(0, TOKENS)
    scale = tl.load(x_scales + token, mask=token < tokens, other=0.0)[:, None]
    gate = code_products(
        x, gate_codes, gate_scales, neurons, keep, tokens, GROUPS, BITS, TOKENS, CHUNK, STAGES
    )
    size = gate * scale  # with its sign under a zeroing activation
    if ACT != "relu" and ACT != "relu2":
        size = tl.abs(activate(size, ACT))
    if WITH_UP:
        up = code_products(x, up_codes, up_scales, neurons, keep, tokens, GROUPS, BITS, TOKENS, CHUNK, STAGES)
        size = size * tl.abs(up * scale)
    cut = tl.load(cuts + neurons, mask=keep, other=0.0)
    wanted = (token < tokens)[:, None] & keep[None, :] & ((size > cut[None, :]) | (size != size))
    vote = tl.sum(wanted.to(tl.int32) << token[:, None], 0)
    tl.store(votes + neurons, vote, mask=keep)
    tl.store(sizes + tile, append(entries, tile * ROWS, 0, neurons, vote != 0))


@triton.jit
def hidden_pass(
    x,
    gate,
    up,
    gates,
    votes,
    h_cuts,
    found,
    found_sizes,
    h,
    entries,
    sizes,
    read,
    tokens,
    gate_cut,
    MODE: tl.constexpr,
    D_MODEL: tl.constexpr,
    D_FF: tl.constexpr,
    ACT: tl.constexpr,
    FOUND_SEGMENT: tl.constexpr,
    FOUND_SEGMENTS: tl.constexpr,
    FOUND_PADDED: tl.constexpr,
    PROGRAMS: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
):
    """`h (tokens, D_FF)` of the neurons found, an equal share to each program; lists those with one active `h`."""
    program = tl.program_id(0)
    SEGMENT: tl.constexpr = (D_FF + PROGRAMS - 1) // PROGRAMS
    LISTED: tl.constexpr = MODE >= BY_GATE
    if LISTED:
        tile = tl.arange(0, FOUND_PADDED)
        listed = tl.load(found_sizes + tile, mask=tile < FOUND_SEGMENTS, other=0)
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
        place = find(listed, ends, slots, FOUND_SEGMENT) if LISTED else slots
        neurons = tl.load(found + place, mask=live, other=0) if LISTED else slots
        here = (token < tokens)[:, None] & live[None, :]
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
        size = tl.load(gates + at, mask=here, other=0.0) if MODE == BY_GATE else activate(sums, ACT)
        value = size * ups
        if MODE == DENSE:
            needed = live
        else:
            h_cut = tl.load(h_cuts + neurons, mask=live, other=0.0)[None, :]
            # a NaN is never above a cut, yet must not vanish
            inactive = (tl.abs(size) <= gate_cut) | (tl.abs(value) <= h_cut)
            if MODE == PREDICTED:
                vote = tl.load(votes + neurons, mask=live, other=0)[None, :]
                inactive = inactive | (((vote >> token[:, None]) & 1) == 0)
            value = tl.where(inactive, 0.0, value)
            needed = tl.max((here & (value != 0)).to(tl.int32), 0) > 0
        tl.store(h + at, value, mask=here)
        kept = append(entries, program * SEGMENT, kept, neurons, needed)
    tl.store(sizes + program, kept)


@triton.jit
def down_pass(
    h,
    down,
    entries,
    sizes,
    parts,
    tokens,
    D_MODEL: tl.constexpr,
    D_FF: tl.constexpr,
    PROGRAMS: tl.constexpr,
    SPLITS: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """`sum h_i down_i` over one split of the list and `BLOCK` columns, into `parts (SPLITS, tokens, D_MODEL)`."""
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
        here = live[:, None] & (d < D_MODEL)[None, :]
        weights = tl.load(down + neurons[:, None] * D_MODEL + d[None, :], mask=here, other=0.0)
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
    """`y` as the sum of the splits' parts, always in the same order; program 0 counts the rows of down."""
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
    """Add to a counter that no other program of the launch touches."""
    tl.store(counter, tl.load(counter) + number)
