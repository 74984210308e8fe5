# Triton's compiler types the bodies of kernels: it turns `tl.constexpr` parameters into numbers and pointers into
# tensors, which Python annotations cannot express. The two rules below would reject nearly every line of a kernel.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false
"""Dot products for the Triton kernels: of weight rows with tokens, and of the predictor's codes with quantised tokens.

One token is multiplied lane by lane, and the lanes are summed once at the end. Several tokens go through the tensor
cores as a tile of 16, the smallest possible. Sums are float32, and int32 within a group of codes.

Triton skips compiling code only inside a branch of a condition on constants, so alternatives are written as `if` and
`else`, also after a `return`.
"""

from __future__ import annotations

import os

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
"""True in Triton's interpreter, which supports neither inline assembly nor products of bfloat16."""


@triton.jit
def exceeds_cut(size, cut):
    """True where `size` is strictly above its cut, or NaN; the same comparison as `plain.above_cut`."""
    return (size > cut) | (size != size)


@triton.jit
def activate(x, ACT: tl.constexpr):
    """The activation `ACT` of float32 values; a NaN stays."""
    if ACT == "relu":
        return tl.where(x <= 0, 0.0, x)
    elif ACT == "relu2":
        return tl.where(x <= 0, 0.0, x * x)
    elif ACT == "silu":
        return x * tl.sigmoid(x)
    elif ACT == "gelu":
        return 0.5 * x * (1 + tl.math.erf(x * 0.7071067811865476))
    else:
        tl.static_assert(ACT == "gelu_tanh")
        # 1 + tanh(z) = 2 sigmoid(2 z)
        return x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))


@triton.jit
def matmul(a, b, total):
    """`total + a @ b` in float32: the operands keep the precision of their dtype (no TF32)."""
    if INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")


@triton.jit
def row_products(
    # inputs
    x,
    weights,
    others,
    keep,
    tokens,
    # sizes
    PAIR: tl.constexpr,
    D_MODEL: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Dot products of tokens with rows and with other rows, each of shape `(TOKENS, R)`, float32.

    Both kinds of rows are loaded at once, to have more bytes on their way. Without `PAIR`, ignore the second result.

    x: Pointer to `(tokens, D_MODEL)`.
    weights, others: Pointers to the first weight of each row, shape `(R,)`.
    keep: False for rows that are not read, shape `(R,)`; their products are 0.
    """
    R: tl.constexpr = weights.shape[0]
    token = tl.arange(0, TOKENS)
    sums = tl.zeros((R, BLOCK) if TOKENS == 1 else (TOKENS, R), tl.float32)
    other_sums = sums
    for start in tl.range(0, D_MODEL, BLOCK, num_stages=STAGES):
        d = start + tl.arange(0, BLOCK)
        valid = keep[:, None] & (d < D_MODEL)[None, :]
        values = tl.load(
            x + token[:, None] * D_MODEL + d[None, :],
            mask=(token < tokens)[:, None] & (d < D_MODEL)[None, :],
            other=0.0,
        )
        rows = tl.load(weights[:, None] + d[None, :], mask=valid, other=0.0)
        sums = _add_products(values, rows, sums, TOKENS)
        if PAIR:
            rows = tl.load(others[:, None] + d[None, :], mask=valid, other=0.0)
            other_sums = _add_products(values, rows, other_sums, TOKENS)
    if TOKENS == 1:
        sums, other_sums = tl.sum(sums, 1)[None, :], tl.sum(other_sums, 1)[None, :]
    return sums, other_sums


@triton.jit
def _add_products(values, rows, sums, TOKENS: tl.constexpr):
    if TOKENS == 1:
        return sums + rows.to(tl.float32) * values.to(tl.float32)
    else:
        return matmul(values, tl.trans(rows), sums)


@triton.jit
def dot4(unsigned, signed, total):
    """`total` plus the four products of the unsigned bytes and the signed bytes that are packed in int32 words."""
    if INTERPRETED:
        for byte in tl.static_range(4):
            total += ((unsigned >> (8 * byte)) & 255) * ((signed << (24 - 8 * byte)) >> 24)
        return total
    else:
        return tl.inline_asm_elementwise(
            "dp4a.u32.s32 $0, $1, $2, $3;",
            "=r,r,r,r",
            [unsigned, signed, total],
            dtype=tl.int32,
            is_pure=True,
            pack=1,
        )


@triton.jit
def code_products(
    # inputs
    x,
    codes,
    scales,
    neurons,
    keep,
    tokens,
    # sizes
    GROUPS: tl.constexpr,
    BITS: tl.constexpr,
    TOKENS: tl.constexpr,
    CHUNK: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Dot products of quantised tokens with coded rows, shape `(TOKENS, R)`, float32, without the tokens' scales.

    x: Pointer to int8 `(tokens, GROUPS * 128)`.
    codes, scales: Pointers to the arrays of a `LayerPredictor`. `x` and `codes` are bytes for several tokens, and int32
        words for one token.
    CHUNK: Groups at a time, for one token.
    """
    if TOKENS == 1:
        return _words(x, codes, scales, neurons, keep, GROUPS, BITS, CHUNK, STAGES)
    else:
        return _bytes(x, codes, scales, neurons, keep, tokens, GROUPS, BITS, TOKENS, STAGES)


@triton.jit
def _words(
    x,
    codes,
    scales,
    neurons,
    keep,
    GROUPS: tl.constexpr,
    BITS: tl.constexpr,
    CHUNK: tl.constexpr,
    STAGES: tl.constexpr,
):
    """One token: each instruction makes four products; each step takes half a group, 16 words or 64 weights."""
    WORDS: tl.constexpr = 4 * BITS  # words of a group
    word = tl.arange(0, 16)
    total = tl.zeros((neurons.shape[0], CHUNK, 16), tl.float32)
    for start in tl.range(0, GROUPS, CHUNK, num_stages=STAGES):
        group = start + tl.arange(0, CHUNK)
        inside = group < GROUPS
        valid = keep[:, None, None] & inside[None, :, None]
        x_at = x + group[:, None] * 32 + word[None, :]
        x_low = tl.load(x_at, mask=inside[:, None], other=0)
        x_high = tl.load(x_at + 16, mask=inside[:, None], other=0)
        at = codes + (neurons[:, None, None] * GROUPS + group[None, :, None]) * WORDS + word[None, None, :]
        first = tl.load(at, mask=valid, other=0)
        if BITS == 4:
            low, high = first & 0x0F0F0F0F, (first >> 4) & 0x0F0F0F0F
            offset = tl.full((CHUNK, 16), 0x08080808, tl.int32)
        else:
            low, high = first, tl.load(at + 16, mask=valid, other=0)
            offset = tl.full((CHUNK, 16), -0x7F7F7F80, tl.int32)  # the bytes 0x80
        # codes are above their value by a constant; what this adds to a sum depends on the token alone
        above = dot4(offset, x_low, dot4(offset, x_high, tl.zeros((CHUNK, 16), tl.int32)))
        sums = tl.broadcast_to(-above[None, :, :], (neurons.shape[0], CHUNK, 16))
        sums = dot4(low, tl.broadcast_to(x_low[None, :, :], low.shape), sums)
        sums = dot4(high, tl.broadcast_to(x_high[None, :, :], high.shape), sums)
        scale = tl.load(
            scales + neurons[:, None] * GROUPS + group[None, :],
            mask=keep[:, None] & inside[None, :],
            other=0.0,
        )
        total += sums.to(tl.float32) * scale.to(tl.float32)[:, :, None]
    return tl.sum(tl.sum(total, 2), 1)[None, :]


@triton.jit
def _bytes(
    x,
    codes,
    scales,
    neurons,
    keep,
    tokens,
    GROUPS: tl.constexpr,
    BITS: tl.constexpr,
    TOKENS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Several tokens: the two halves of a group are two integer products of the tensor cores."""
    ROW: tl.constexpr = 16 * BITS  # bytes of a group
    byte, token = tl.arange(0, 64), tl.arange(0, TOKENS)
    total = tl.zeros((TOKENS, neurons.shape[0]), tl.float32)
    for group in tl.range(0, GROUPS, num_stages=STAGES):
        x_at = x + token[:, None] * (GROUPS * 128) + group * 128 + byte[None, :]
        x_low = tl.load(x_at, mask=(token < tokens)[:, None], other=0)
        x_high = tl.load(x_at + 64, mask=(token < tokens)[:, None], other=0)
        at = codes + (neurons[:, None] * GROUPS + group) * ROW + byte[None, :]
        first = tl.load(at, mask=keep[:, None], other=0)
        if BITS == 4:
            low, high = ((first & 15) - 8).to(tl.int8), ((first >> 4) - 8).to(tl.int8)
        else:
            low = (first ^ 128).to(tl.int8)
            high = (tl.load(at + 64, mask=keep[:, None], other=0) ^ 128).to(tl.int8)
        sums = tl.dot(x_low, tl.trans(low), out_dtype=tl.int32)
        sums = tl.dot(x_high, tl.trans(high), sums, out_dtype=tl.int32)
        scale = tl.load(scales + neurons * GROUPS + group, mask=keep, other=0.0)
        total += sums.to(tl.float32) * scale.to(tl.float32)[None, :]
    return total
