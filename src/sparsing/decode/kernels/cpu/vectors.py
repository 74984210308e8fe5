"""Eight rows of weights side by side in vector lanes, for float32, bfloat16 bits and int8: LLVM code, 16 lanes wide.

Left to itself, LLVM turns the same loops over 2-byte and 1-byte weights into code that is several times slower than
memory. A narrower processor gets these vectors in parts.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
"""Weights that are taken at once; callers do what is left of a row themselves."""

_I16, _I32, _F32 = ir.IntType(16), ir.IntType(32), ir.FloatType()
_FLOATS, _INTS = ir.VectorType(_F32, LANES), ir.VectorType(_I32, LANES)
_MAY_FUSE = ("contract",)


def _weights(builder: Any, kind: Any, address: Any) -> Any:
    """16 weights from `address` on as float32."""
    if kind == types.float32:
        return _load(builder, _FLOATS, address)
    if kind == types.uint16:
        bits = builder.zext(_load(builder, ir.VectorType(_I16, LANES), address), _INTS)
        return builder.bitcast(builder.shl(bits, ir.Constant(_INTS, [16] * LANES)), _FLOATS)
    codes = _load(builder, ir.VectorType(ir.IntType(8), LANES), address)
    return builder.sitofp(builder.sext(codes, _INTS), _FLOATS)


def _load(builder: Any, kind: Any, address: Any) -> Any:
    loaded = builder.load(builder.bitcast(address, kind.as_pointer()))
    loaded.align = 1
    return loaded


def _store(builder: Any, value: Any, address: Any) -> None:
    builder.store(value, builder.bitcast(address, value.type.as_pointer())).align = 1


class _Matrix:
    """Addresses in a two-dimensional array whose rows are contiguous."""

    def __init__(self, context: Any, builder: Any, kind: Any, value: Any):
        view = context.make_array(kind)(context, builder, value)
        self._builder, self._data = builder, builder.bitcast(view.data, ir.IntType(8).as_pointer())
        self._stride = cgutils.unpack_tuple(builder, view.strides)[0]
        self.columns = cgutils.unpack_tuple(builder, view.shape)[1]
        self.size = context.get_abi_sizeof(context.get_value_type(kind.dtype))

    def row(self, i: Any) -> Any:
        return self._builder.gep(self._data, [self._builder.mul(i, self._stride)])

    def at(self, row: Any, j: Any) -> Any:
        return self._builder.gep(row, [self._builder.mul(j, j.type(self.size))])


def _each_lane_group(builder: Any, columns: Any) -> Any:
    """A loop over the whole groups of 16 columns; gives the first column of each."""
    return cgutils.for_range_slice(
        builder, columns.type(0), builder.and_(columns, columns.type(-LANES)), columns.type(LANES), inc=True
    )


def _row_numbers(context: Any, builder: Any, kind: Any, value: Any) -> list[Any]:
    """The eight entries of an int32 array as machine words."""
    data = context.make_array(kind)(context, builder, value).data
    word = context.get_value_type(types.intp)
    return [builder.sext(builder.load(builder.gep(data, [_I32(r)])), word) for r in range(8)]


def _dots(tokens: int) -> Any:
    """Intrinsic `(rows, at, x, token) -> 8 * tokens float32`, row after row; `at` are eight int32 row numbers."""

    def dots(typingctx: Any, rows: Any, at: Any, x: Any, token: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            weights = _Matrix(context, builder, signature.args[0], args[0])
            values = _Matrix(context, builder, signature.args[2], args[2])
            starts = [weights.row(i) for i in _row_numbers(context, builder, signature.args[1], args[1])]
            given = [values.row(builder.add(args[3], args[3].type(t))) for t in range(tokens)]
            zero = ir.Constant(_FLOATS, [0.0] * LANES)
            sums = [cgutils.alloca_once_value(builder, zero) for _ in range(8 * tokens)]
            with _each_lane_group(builder, weights.columns) as (j, _):
                x_lanes = [_load(builder, _FLOATS, values.at(row, j)) for row in given]
                for r, start in enumerate(starts):
                    lanes = _weights(builder, signature.args[0].dtype, weights.at(start, j))
                    for t in range(tokens):
                        total, term = sums[r * tokens + t], builder.fmul(lanes, x_lanes[t], flags=_MAY_FUSE)
                        builder.store(builder.fadd(builder.load(total), term, flags=_MAY_FUSE), total)
            reduce = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(_F32, [_F32, _FLOATS]), "llvm.vector.reduce.fadd.v16f32"
            )
            found = [builder.call(reduce, [_F32(0.0), builder.load(s)], fastmath=("reassoc",)) for s in sums]
            return context.make_tuple(builder, signature.return_type, found)

        return types.UniTuple(types.float32, 8 * tokens)(rows, at, x, types.intp), codegen

    return intrinsic(dots)


eight_dots = _dots(1)
"""`rows[at[r]] . x[token]` for eight rows over the whole groups of 16 columns."""
eight_dots_of_two = _dots(2)
"""The same for `token` and `token + 1`: entry `2 r + t`."""


@intrinsic
def eight_adds(typingctx: Any, rows: Any, at: Any, factors: Any, y: Any, token: Any) -> Any:
    """`y[token] += sum_r factors[r] * rows[at[r]]` over the whole groups of 16 columns; `factors` are 8 float32."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        weights = _Matrix(context, builder, signature.args[0], args[0])
        output = _Matrix(context, builder, signature.args[3], args[3])
        starts = [weights.row(i) for i in _row_numbers(context, builder, signature.args[1], args[1])]
        spread = ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES)
        scales = []
        for factor in cgutils.unpack_tuple(builder, args[2]):
            one = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), factor, _I32(0))
            scales.append(builder.shuffle_vector(one, one, spread))
        row = output.row(args[4])
        with _each_lane_group(builder, weights.columns) as (j, _):
            halves = [_load(builder, _FLOATS, output.at(row, j)), ir.Constant(_FLOATS, [0.0] * LANES)]
            for r, start in enumerate(starts):  # two sums: one would wait for itself
                lanes = _weights(builder, signature.args[0].dtype, weights.at(start, j))
                term = builder.fmul(lanes, scales[r], flags=_MAY_FUSE)
                halves[r % 2] = builder.fadd(halves[r % 2], term, flags=_MAY_FUSE)
            _store(builder, builder.fadd(*halves), output.at(row, j))
        return context.get_dummy_value()

    return types.void(rows, at, types.UniTuple(types.float32, 8), y, types.intp), codegen
