"""Helpers for Numba intrinsics that emit LLVM vector code: types, unaligned loads and stores, rows, sums over lanes.

An intrinsic is a Python function that runs when Numba compiles a call to it, and writes the LLVM code of that call. The
kernels use them where LLVM's own vectorisation of a Numba loop is several times slower than memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec

from llvmlite import ir
from numba import extending
from numba.core import cgutils

LANES = 16
"""Float32 values in one vector. A processor with narrower vectors gets each vector in parts."""
I8, I16, I32, F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.FloatType()
FLOATS, INTS = ir.VectorType(F32, LANES), ir.VectorType(I32, LANES)
NO_FLOATS = ir.Constant(FLOATS, [0.0] * LANES)
"""A vector of zeros, the start of every sum."""
MAY_FUSE = ("contract",)
"""Fast-math flag: a multiplication and an addition may become one instruction with a single rounding."""

_P = ParamSpec("_P")


def intrinsic(define: Callable[Concatenate[Any, _P], Any]) -> Callable[_P, Any]:
    """Numba's `intrinsic`, with the type that callers see: Numba itself passes the first argument, its context."""
    return extending.intrinsic(define)  # pyright: ignore[reportReturnType]  # callable only inside compiled functions


def load(builder: Any, kind: Any, address: Any) -> Any:
    """A value of this type from any address; rows of weights are not aligned to vectors."""
    loaded = builder.load(builder.bitcast(address, kind.as_pointer()))
    loaded.align = 1
    return loaded


def store(builder: Any, value: Any, address: Any) -> None:
    """Write a value to any address."""
    builder.store(value, builder.bitcast(address, value.type.as_pointer())).align = 1


def spread(builder: Any, scalar: Any) -> Any:
    """A vector with this float32 in every lane."""
    first = builder.insert_element(ir.Constant(FLOATS, ir.Undefined), scalar, I32(0))
    return builder.shuffle_vector(first, first, ir.Constant(INTS, [0] * LANES))


def widen_bfloat16(builder: Any, bits: Any, kind: Any) -> Any:
    """Float32 values of `kind` (a scalar or a vector) whose upper halves are these bfloat16 bits."""
    word = ir.VectorType(I32, kind.count) if isinstance(kind, ir.VectorType) else I32
    half = ir.Constant(word, [16] * kind.count if isinstance(kind, ir.VectorType) else 16)
    return builder.bitcast(builder.shl(builder.zext(bits, word), half), kind)


def add_product(builder: Any, total: Any, a: Any, b: Any) -> None:
    """Add `a * b` to the vector at the address `total`."""
    term = builder.fmul(a, b, flags=MAY_FUSE)
    builder.store(builder.fadd(builder.load(total), term, flags=MAY_FUSE), total)


def sum_lanes(builder: Any, total: Any) -> Any:
    """The sum over the lanes of the vector at the address `total`, in any order."""
    reduce = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(F32, [F32, FLOATS]), "llvm.vector.reduce.fadd.v16f32"
    )
    return builder.call(reduce, [F32(0.0), builder.load(total)], fastmath=("reassoc",))


class Matrix:
    """Addresses in a two-dimensional array whose rows are contiguous."""

    def __init__(self, context: Any, builder: Any, kind: Any, value: Any):
        view = context.make_array(kind)(context, builder, value)
        self._builder, self._data = builder, builder.bitcast(view.data, I8.as_pointer())
        self._stride = cgutils.unpack_tuple(builder, view.strides)[0]
        self.columns = cgutils.unpack_tuple(builder, view.shape)[1]
        self.item_bytes = context.get_abi_sizeof(context.get_value_type(kind.dtype))

    def row(self, i: Any) -> Any:
        """Address of the first byte of row `i`."""
        return self._builder.gep(self._data, [self._builder.mul(i, self._stride)])

    def at(self, row: Any, j: Any) -> Any:
        """Address of column `j` of the row that starts at the address `row`."""
        return self._builder.gep(row, [self._builder.mul(j, j.type(self.item_bytes))])
