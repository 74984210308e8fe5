"""Numba intrinsics that work with addresses: calls of ggml's functions, prefetch, atomics, and sums of int8 rows.

The weights of a GGUF file have types that NumPy does not know, so compiled code addresses them by byte. `gguf_file.py`
has checked that every row lies inside its file before an address is computed here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.core import cgutils

from sparsing.decode.kernels.cpu import llvm
from sparsing.decode.kernels.cpu.compiled import compiled

GROUP = 32
"""Weights that share a scale in the transposed copy of down."""
LINE = 64
"""Bytes of a cache line."""
_BYTES, _WORD = llvm.I8.as_pointer(), ir.IntType(64)
_VOID = ir.VoidType()


def _pointer(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, _BYTES)


def _call(builder: Any, function: Any, arguments: list[Any]) -> Any:
    kind = ir.FunctionType(_VOID, [argument.type for argument in arguments])
    return builder.call(builder.inttoptr(function, kind.as_pointer()), arguments)


@llvm.intrinsic
def call_dot(typingctx: Any, dot: Any, count: Any, out: Any, row: Any, values: Any) -> Any:
    """`*out = row . values` for `count` weights, by the `WeightType.dot` at the address `dot`; all are addresses."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function, n, out, row, x = args
        floats = builder.inttoptr(out, llvm.F32.as_pointer())
        zero = _WORD(0)
        arguments = [builder.trunc(n, llvm.I32), floats, zero, _pointer(builder, row), zero]
        _call(builder, function, [*arguments, _pointer(builder, x), zero, llvm.I32(1)])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), codegen


@llvm.intrinsic
def call_gemv(typingctx: Any, gemv: Any, count: Any, out: Any, rows: Any, values: Any, num_rows: Any) -> Any:
    """`out[r] = row r . values` for rows that `packed_rows.py` has interleaved; all but the counts are addresses."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function, n, out, rows, x, num_rows = args
        floats = builder.inttoptr(out, llvm.F32.as_pointer())
        arguments = [
            builder.trunc(n, llvm.I32),
            floats,
            _WORD(0),
            _pointer(builder, rows),
            _pointer(builder, x),
        ]
        _call(builder, function, [*arguments, llvm.I32(1), builder.trunc(num_rows, llvm.I32)])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), codegen


@llvm.intrinsic
def call_convert(typingctx: Any, convert: Any, source: Any, target: Any, count: Any) -> Any:
    """Convert `count` values by the `from_float` or `to_float` at the address `convert`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function, source, target, n = args
        _call(builder, function, [_pointer(builder, source), _pointer(builder, target), n])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), codegen


@llvm.intrinsic
def call_softmax(typingctx: Any, softmax: Any, count: Any, x: Any, most: Any) -> Any:
    """Replace the floats at the address `x` by `exp(x - most)` and return their sum, by `ggml_vec_soft_max_f32`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function, n, x, most = args
        floats = builder.inttoptr(x, llvm.F32.as_pointer())
        arguments = [builder.trunc(n, llvm.I32), floats, floats, most]
        kind = ir.FunctionType(ir.DoubleType(), [argument.type for argument in arguments])
        return builder.call(builder.inttoptr(function, kind.as_pointer()), arguments)

    return types.float64(*[types.int64] * 3, types.float32), codegen


@llvm.intrinsic
def call_silu(typingctx: Any, silu: Any, count: Any, x: Any) -> Any:
    """Replace the floats at the address `x` by their SiLU, by `ggml_vec_silu_f32`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function, n, x = args
        floats = builder.inttoptr(x, llvm.F32.as_pointer())
        _call(builder, function, [builder.trunc(n, llvm.I32), floats, floats])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), codegen


@llvm.intrinsic
def fused(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """`a * b + c` with a single rounding, float32."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fma(*args)

    return types.float32(*[types.float32] * 3), codegen


@llvm.intrinsic
def call_yield(typingctx: Any, function: Any) -> Any:
    """Call the `int (void)` at this address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(llvm.I32, [])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), [])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@llvm.intrinsic
def atomic_add(typingctx: Any, address: Any, value: Any) -> Any:
    """Add to the int64 at this address; returns the value before."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target = builder.inttoptr(args[0], _WORD.as_pointer())
        return builder.atomic_rmw("add", target, args[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@llvm.intrinsic
def atomic_load(typingctx: Any, address: Any) -> Any:
    """The int64 at this address, with everything that other threads wrote before they wrote it."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(builder.inttoptr(args[0], _WORD.as_pointer()), "seq_cst", 8)

    return types.int64(types.int64), codegen


@llvm.intrinsic
def cycles(typingctx: Any) -> Any:
    """The processor's counter of cycles, for shares of time."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(_WORD, [])
        counter = cgutils.get_or_insert_function(builder.module, kind, "llvm.readcyclecounter")
        return builder.call(counter, [])

    return types.int64(), codegen


@llvm.intrinsic
def request_line(typingctx: Any, address: Any) -> Any:
    """Ask for the cache line at this address.

    It goes to the second level of cache, since a Zen 4 core drops some of many requests for the first level.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(_VOID, [_BYTES, llvm.I32, llvm.I32, llvm.I32])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        # read, second level, data
        builder.call(prefetch, [_pointer(builder, args[0]), llvm.I32(0), llvm.I32(2), llvm.I32(1)])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@compiled(inline="always")
def prefetch(address, size):
    """Ask for the cache lines of `size` bytes from this address on."""
    for byte in range(0, size, LINE):
        request_line(address + byte)


def _pointer_to(number: Any, kind: Any) -> Any:
    """Intrinsic that turns an address into a pointer to values of this Numba type."""

    def to_pointer(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], kind.as_pointer())

        return types.CPointer(number)(types.int64), codegen

    return llvm.intrinsic(to_pointer)


_float_pointer, _int_pointer = _pointer_to(types.float32, llvm.F32), _pointer_to(types.int64, _WORD)
_half_pointer, _byte_pointer = _pointer_to(types.uint16, llvm.I16), _pointer_to(types.int8, llvm.I8)


@compiled(inline="always")
def floats_at(address, count):
    """The float32 array of `count` values at this address."""
    return carray(_float_pointer(address), (count,))


@compiled(inline="always")
def ints_at(address, count):
    """The int64 array of `count` values at this address."""
    return carray(_int_pointer(address), (count,))


@compiled(inline="always")
def halves_at(address, count):
    """The array of `count` float16 values at this address, as bits, uint16."""
    return carray(_half_pointer(address), (count,))


@compiled(inline="always")
def bytes_at(address, count):
    """The int8 array of `count` values at this address."""
    return carray(_byte_pointer(address), (count,))


@compiled()
def half_at(address):
    """The float16 at this address as float32."""
    bits = np.int64(halves_at(address, 1)[0])
    exponent, fraction = (bits >> 10) & 31, bits & 1023
    if exponent == 0:
        value = fraction * 2.0**-24
    elif exponent == 31:
        value = np.nan if fraction else np.inf
    else:
        value = (1024 + fraction) * 2.0 ** (exponent - 25)
    return np.float32(-value if bits >> 15 else value)


@llvm.intrinsic
def add_four_rows(typingctx: Any, rows: Any, scales: Any, factors: Any, y: Any, groups: Any) -> Any:
    """`y += sum_r factors[r] * row_r` for four int8 rows with one float32 scale per 32 codes.

    Args:
        rows: Four addresses of codes, int64.
        scales: Four addresses of scales, int64.
        factors: Four float32.
        y: Address of `32 * groups` float32.
        groups: Number of groups of 32 columns.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rows, scales, factors = (cgutils.unpack_tuple(builder, args[n]) for n in range(3))
        codes_kind = ir.VectorType(llvm.I8, llvm.LANES)
        with cgutils.for_range(builder, args[4]) as loop:
            column = builder.mul(loop.index, _WORD(GROUP))
            weights = []
            for r in range(4):
                place = builder.add(scales[r], builder.mul(loop.index, _WORD(4)))
                scale = llvm.load(builder, llvm.F32, _pointer(builder, place))
                weights.append(llvm.spread(builder, builder.fmul(scale, factors[r])))
            for half in range(0, GROUP, llvm.LANES):
                first = builder.add(column, _WORD(half))
                target = _pointer(builder, builder.add(args[3], builder.mul(first, _WORD(4))))
                sums = [llvm.load(builder, llvm.FLOATS, target), llvm.NO_FLOATS]
                for r in range(4):
                    codes = llvm.load(builder, codes_kind, _pointer(builder, builder.add(rows[r], first)))
                    lanes = builder.sitofp(builder.sext(codes, llvm.INTS), llvm.FLOATS)
                    term = builder.fmul(lanes, weights[r], flags=llvm.MAY_FUSE)
                    sums[r % 2] = builder.fadd(sums[r % 2], term, flags=llvm.MAY_FUSE)
                llvm.store(builder, builder.fadd(*sums), target)
        return context.get_dummy_value()

    four = types.UniTuple(types.int64, 4)
    signature = types.void(four, four, types.UniTuple(types.float32, 4), types.int64, types.int64)
    return signature, codegen
