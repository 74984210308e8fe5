"""LLVM code for what Numba lacks: bfloat16 as float32, prefetch, and dot products of the predictor's codes.

Products of bytes use the processor's dot-product instruction (AVX-512 VNNI) if it has one, and widened multiplications
otherwise. Both give the same integers, so the predicted set does not depend on the processor.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils

from sparsing.decode.kernels.cpu import llvm
from sparsing.decode.predict.quantised import GROUP

_HALF = GROUP // 2
_BYTES = ir.VectorType(llvm.I8, _HALF)
HAS_VNNI = bool(llvmlite.binding.get_host_cpu_features().get("avx512vnni"))


@llvm.intrinsic
def bf16_to_f32(typingctx: Any, bits: Any) -> Any:
    """The float32 whose upper half are these 16 bits."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return llvm.widen_bfloat16(builder, args[0], llvm.F32)

    return types.float32(types.uint16), codegen


@llvm.intrinsic
def prefetch_line(typingctx: Any, rows: Any, i: Any, byte: Any) -> Any:
    """Request the cache line at this byte of `rows[i]` (a C-contiguous matrix) without waiting for it."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        row = llvm.Matrix(context, builder, signature.args[0], args[0]).row(args[1])
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [llvm.I8.as_pointer(), llvm.I32, llvm.I32, llvm.I32]),
            "llvm.prefetch.p0",
        )
        # arguments: for reading (0), into the second-level cache (2), data rather than instructions (1)
        builder.call(function, [builder.gep(row, [args[2]]), llvm.I32(0), llvm.I32(2), llvm.I32(1)])
        return context.get_dummy_value()

    return types.void(rows, types.intp, types.intp), codegen


def _add_products(builder: Any, total: Any, weights: Any, x: Any) -> Any:
    """`total` (16 int32) plus sums of four products each of 64 unsigned bytes with 64 signed bytes."""
    if HAS_VNNI:
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(llvm.INTS, [llvm.INTS] * 3), "llvm.x86.avx512.vpdpbusd.512"
        )
        return builder.call(
            function, [total, builder.bitcast(weights, llvm.INTS), builder.bitcast(x, llvm.INTS)]
        )
    wide = ir.VectorType(llvm.I32, _HALF)
    product = builder.mul(builder.zext(weights, wide), builder.sext(x, wide))
    for part in range(4):
        # VNNI adds four neighbouring products; here each lane gets others, which is fine: lanes are summed in the end
        mask = ir.Constant(llvm.INTS, list(range(llvm.LANES * part, llvm.LANES * part + llvm.LANES)))
        total = builder.add(total, builder.shuffle_vector(product, product, mask))
    return total


def _codes_dot(nibbles: bool) -> Any:
    """Intrinsic `(codes, scales, i, x, start, token) -> float32`; see `dot_4bit` and `dot_8bit`."""

    def codes_dot(typingctx: Any, codes: Any, scales: Any, i: Any, x: Any, start: Any, token: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kinds, (_, _, i, _, _, token) = signature.args, args
            scale_rows = llvm.Matrix(context, builder, kinds[1], args[1])
            code_row = llvm.Matrix(context, builder, kinds[0], args[0]).row(i)
            scale_row = scale_rows.row(i)
            x_row = llvm.Matrix(context, builder, kinds[3], args[3]).row(token)
            start_row = llvm.Matrix(context, builder, kinds[4], args[4]).row(token)
            groups = scale_rows.columns
            word = groups.type

            def part(kind: Any, row: Any, offset: Any) -> Any:
                return llvm.load(builder, kind, builder.gep(row, [offset]))

            total = cgutils.alloca_once_value(builder, llvm.NO_FLOATS)
            with cgutils.for_range(builder, groups) as loop:
                group = loop.index
                # int32 is exact here: 128 products of a byte with a signed byte stay below 2**23
                sums = part(llvm.INTS, start_row, builder.mul(group, word(4 * llvm.LANES)))
                x_at = builder.mul(group, word(GROUP))
                x_low, x_high = part(_BYTES, x_row, x_at), part(_BYTES, x_row, builder.add(x_at, word(_HALF)))
                if nibbles:
                    both = part(_BYTES, code_row, builder.mul(group, word(_HALF)))
                    low = builder.and_(both, ir.Constant(_BYTES, [15] * _HALF))
                    high = builder.lshr(both, ir.Constant(_BYTES, [4] * _HALF))
                else:
                    low = part(_BYTES, code_row, x_at)
                    high = part(_BYTES, code_row, builder.add(x_at, word(_HALF)))
                sums = _add_products(builder, _add_products(builder, sums, low, x_low), high, x_high)
                scale = llvm.widen_bfloat16(
                    builder, part(llvm.I16, scale_row, builder.mul(group, word(2))), llvm.F32
                )
                llvm.add_product(
                    builder, total, builder.sitofp(sums, llvm.FLOATS), llvm.spread(builder, scale)
                )
            return llvm.sum_lanes(builder, total)

        return types.float32(codes, scales, types.intp, x, start, types.intp), codegen

    return llvm.intrinsic(codes_dot)


dot_4bit = _codes_dot(nibbles=True)
"""`sum_g scale[i, g] * (code . x - 8 sum x)`, where `g` runs over the groups of 128 weights of row `i`.

codes: Two weights in each byte, shape `(d_ff, groups * 64)`, uint8. Byte `j` of a group holds weight `j` in its low
    half and weight `64 + j` in its high half, each as an unsigned number that is 8 above its value.
scales: bfloat16 bits, shape `(d_ff, groups)`, uint16.
x: One quantised token in each row, shape `(tokens, groups * 128)`, int8.
start: Shape `(tokens, groups * 16)`, int32: the start of each group's sum, with `-8 * sum(x)` in its first lane.
"""

dot_8bit = _codes_dot(nibbles=False)
"""As `dot_4bit`, with one weight in each byte that is 128 above its value; codes of shape `(d_ff, groups * 128)`."""
