"""LLVM code for eight rows of weights side by side in vectors, for float32, bfloat16 bits and int8.

LLVM turns the same loops in Numba over 2-byte and 1-byte weights into code that is several times slower than memory.
The functions handle whole groups of 16 columns; their callers in `rows.py` handle the columns left over.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from sparsing.decode.kernels.cpu import llvm


def _weights(builder: Any, kind: Any, address: Any) -> Any:
    """16 weights of this Numba type, from `address` on, as float32."""
    if kind == types.float32:
        return llvm.load(builder, llvm.FLOATS, address)
    if kind == types.uint16:
        return llvm.widen_bfloat16(
            builder, llvm.load(builder, ir.VectorType(llvm.I16, llvm.LANES), address), llvm.FLOATS
        )
    codes = llvm.load(builder, ir.VectorType(llvm.I8, llvm.LANES), address)
    return builder.sitofp(builder.sext(codes, llvm.INTS), llvm.FLOATS)


def _each_lane_group(builder: Any, columns: Any) -> Any:
    """A loop over the whole groups of 16 columns that yields the first column of each."""
    return cgutils.for_range_slice(
        builder,
        columns.type(0),
        builder.and_(columns, columns.type(-llvm.LANES)),
        columns.type(llvm.LANES),
        inc=True,
    )


def _row_numbers(context: Any, builder: Any, kind: Any, value: Any) -> list[Any]:
    """The eight entries of an int32 array as machine words."""
    data = context.make_array(kind)(context, builder, value).data
    word = context.get_value_type(types.intp)
    return [builder.sext(builder.load(builder.gep(data, [llvm.I32(r)])), word) for r in range(8)]


def _dots(tokens: int) -> Any:
    """Intrinsic `(rows, at, x, token) -> 8 * tokens float32`, row after row; `at` holds eight int32 row numbers."""

    def dots(typingctx: Any, rows: Any, at: Any, x: Any, token: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kinds, token = signature.args, args[3]
            weights, values = (llvm.Matrix(context, builder, kinds[n], args[n]) for n in (0, 2))
            starts = [weights.row(i) for i in _row_numbers(context, builder, kinds[1], args[1])]
            x_rows = [values.row(builder.add(token, token.type(t))) for t in range(tokens)]
            sums = [cgutils.alloca_once_value(builder, llvm.NO_FLOATS) for _ in range(8 * tokens)]
            with _each_lane_group(builder, weights.columns) as (j, _):
                x_lanes = [llvm.load(builder, llvm.FLOATS, values.at(row, j)) for row in x_rows]
                for r, start in enumerate(starts):
                    lanes = _weights(builder, kinds[0].dtype, weights.at(start, j))
                    for t in range(tokens):
                        llvm.add_product(builder, sums[r * tokens + t], lanes, x_lanes[t])
            dots = [llvm.sum_lanes(builder, total) for total in sums]
            return context.make_tuple(builder, signature.return_type, dots)

        return types.UniTuple(types.float32, 8 * tokens)(rows, at, x, types.intp), codegen

    return llvm.intrinsic(dots)


eight_dots = _dots(1)
"""`rows[at[r]] . x[token]` for eight rows over the whole groups of 16 columns."""
eight_dots_of_two = _dots(2)
"""The same for `token` and `token + 1`: entry `2 r + t`."""


@llvm.intrinsic
def eight_adds(typingctx: Any, rows: Any, at: Any, factors: Any, y: Any, token: Any) -> Any:
    """`y[token] += sum_r factors[r] * rows[at[r]]` over the whole groups of 16 columns; `factors` are 8 float32."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds = signature.args
        weights, output = (llvm.Matrix(context, builder, kinds[n], args[n]) for n in (0, 3))
        starts = [weights.row(i) for i in _row_numbers(context, builder, kinds[1], args[1])]
        scales = [llvm.spread(builder, factor) for factor in cgutils.unpack_tuple(builder, args[2])]
        row = output.row(args[4])
        with _each_lane_group(builder, weights.columns) as (j, _):
            # two sums, so that an addition need not wait for the one just before
            halves = [llvm.load(builder, llvm.FLOATS, output.at(row, j)), llvm.NO_FLOATS]
            for r, start in enumerate(starts):
                lanes = _weights(builder, kinds[0].dtype, weights.at(start, j))
                term = builder.fmul(lanes, scales[r], flags=llvm.MAY_FUSE)
                halves[r % 2] = builder.fadd(halves[r % 2], term, flags=llvm.MAY_FUSE)
            llvm.store(builder, builder.fadd(*halves), output.at(row, j))
        return context.get_dummy_value()

    return types.void(rows, at, types.UniTuple(types.float32, 8), y, types.intp), codegen
