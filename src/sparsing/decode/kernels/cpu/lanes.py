"""What Numba lacks for memory-speed loops: bfloat16 bits as float32, prefetch, and dot products of 4- and 8-bit codes.

Each is one intrinsic that emits LLVM vector code. Products of bytes use the processor's dot-product instruction
(AVX-512 VNNI) where there is one and plain widened multiplications elsewhere; both give the same integers.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from sparsing.decode.predict.quantised import GROUP

_I8, _I32, _F32 = ir.IntType(8), ir.IntType(32), ir.FloatType()
_BYTES = ir.VectorType(_I8, 64)
_INTS = ir.VectorType(_I32, 16)
_FLOATS = ir.VectorType(_F32, 16)
HAS_VNNI = bool(llvmlite.binding.get_host_cpu_features().get("avx512vnni"))


@intrinsic
def bf16_to_f32(typingctx: Any, bits: Any) -> Any:
    """The float32 whose upper half are these 16 bits."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = builder.shl(builder.zext(args[0], _I32), _I32(16))
        return builder.bitcast(wide, _F32)

    return types.float32(types.uint16), codegen


@intrinsic
def prefetch_line(typingctx: Any, rows: Any, i: Any, byte: Any) -> Any:
    """Ask for the cache line at this byte of `rows[i]` (a C-contiguous matrix); returns at once."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        row = _row(context, builder, signature.args[0], args[0], args[1])
        kind = ir.FunctionType(ir.VoidType(), [_I8.as_pointer(), _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        # for reading, into the second-level cache, data
        builder.call(function, [builder.gep(row, [args[2]]), _I32(0), _I32(2), _I32(1)])
        return context.get_dummy_value()

    return types.void(rows, types.intp, types.intp), codegen


def _products(builder: Any, total: Any, weights: Any, x: Any) -> Any:
    """`total` (16 int32) plus the sums of four neighbouring products of unsigned by signed bytes."""
    if HAS_VNNI:
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_INTS, [_INTS] * 3), "llvm.x86.avx512.vpdpbusd.512"
        )
        return builder.call(function, [total, builder.bitcast(weights, _INTS), builder.bitcast(x, _INTS)])
    wide = ir.VectorType(_I32, 64)
    product = builder.mul(builder.zext(weights, wide), builder.sext(x, wide))
    for part in range(4):  # which lane a product ends in does not matter: lanes are summed in the end
        mask = ir.Constant(_INTS, list(range(16 * part, 16 * part + 16)))
        total = builder.add(total, builder.shuffle_vector(product, product, mask))
    return total


def _load(builder: Any, kind: Any, data: Any, offset: Any) -> Any:
    start = builder.gep(builder.bitcast(data, _I8.as_pointer()), [offset])
    loaded = builder.load(builder.bitcast(start, kind.as_pointer()))
    loaded.align = 1
    return loaded


def _row(context: Any, builder: Any, kind: Any, array: Any, row: Any) -> Any:
    """Pointer to the first byte of `array[row]`."""
    view = context.make_array(kind)(context, builder, array)
    stride = cgutils.unpack_tuple(builder, view.strides)[0]
    return builder.gep(builder.bitcast(view.data, _I8.as_pointer()), [builder.mul(row, stride)])


def _codes_dot(nibbles: bool) -> Any:
    """Intrinsic `(codes, scales, i, x, start, token) -> float32`; see `dot_4bit` and `dot_8bit`."""

    def codes_dot(typingctx: Any, codes: Any, scales: Any, i: Any, x: Any, start: Any, token: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kinds = signature.args
            row, token_row = args[2], args[5]
            shape = context.make_array(kinds[1])(context, builder, args[1]).shape
            groups = cgutils.unpack_tuple(builder, shape)[1]
            code_row = _row(context, builder, kinds[0], args[0], row)
            scale_row = _row(context, builder, kinds[1], args[1], row)
            x_row = _row(context, builder, kinds[3], args[3], token_row)
            start_row = _row(context, builder, kinds[4], args[4], token_row)
            word = groups.type
            total = cgutils.alloca_once_value(builder, ir.Constant(_FLOATS, [0.0] * 16))
            with cgutils.for_range(builder, groups) as loop:
                group = loop.index
                sums = _load(builder, _INTS, start_row, builder.mul(group, word(64)))
                x_at = builder.mul(group, word(GROUP))
                x_low = _load(builder, _BYTES, x_row, x_at)
                x_high = _load(builder, _BYTES, x_row, builder.add(x_at, word(64)))
                if nibbles:
                    both = _load(builder, _BYTES, code_row, builder.mul(group, word(64)))
                    low = builder.and_(both, ir.Constant(_BYTES, [15] * 64))
                    high = builder.lshr(both, ir.Constant(_BYTES, [4] * 64))
                else:
                    low = _load(builder, _BYTES, code_row, x_at)
                    high = _load(builder, _BYTES, code_row, builder.add(x_at, word(64)))
                sums = _products(builder, _products(builder, sums, low, x_low), high, x_high)
                bits = _load(builder, ir.IntType(16), scale_row, builder.mul(group, word(2)))
                scale = builder.bitcast(builder.shl(builder.zext(bits, _I32), _I32(16)), _F32)
                lanes = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), scale, _I32(0))
                lanes = builder.shuffle_vector(lanes, lanes, ir.Constant(ir.VectorType(_I32, 16), [0] * 16))
                term = builder.fmul(builder.sitofp(sums, _FLOATS), lanes, flags=("contract",))
                builder.store(builder.fadd(builder.load(total), term, flags=("contract",)), total)
            reduce = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(_F32, [_F32, _FLOATS]), "llvm.vector.reduce.fadd.v16f32"
            )
            return builder.call(reduce, [_F32(0.0), builder.load(total)], fastmath=("reassoc",))

        return types.float32(codes, scales, types.intp, x, start, types.intp), codegen

    return intrinsic(codes_dot)


dot_4bit = _codes_dot(nibbles=True)
"""`sum_g scale[i, g] * (code . x - 8 sum x)` over groups of 128 weights.

codes: Two weights a byte, shape `(d_ff, groups * 64)`, uint8; byte `j` of a group holds weight `j` in its low half
    and weight `64 + j` in its high half, each as an unsigned number that stands 8 above its value.
scales: bfloat16 bits, shape `(d_ff, groups)`, uint16.
x: One quantised token a row, shape `(tokens, groups * 128)`, int8.
start: Shape `(tokens, groups * 16)`, int32: what each group's sum begins with, `-8 * sum(x)` in its first lane.
"""

dot_8bit = _codes_dot(nibbles=False)
"""As `dot_4bit` with one weight a byte that stands 128 above its value; codes of shape `(d_ff, groups * 128)`."""
