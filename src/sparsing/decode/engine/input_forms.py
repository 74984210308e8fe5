"""The 8-bit forms in which ggml's dot products take their inputs, read back to see what they have lost by rounding.

ggml rounds every input of a quantised matrix to 8 bits with one scale per block (`Q8_0`, `Q8_1`, `Q8_K`). With inputs
in two parts, the rounding error of the first part is the second part, in the same form. Two dot products with the same
row then add up to that of an input with about 15 bits, and the row is read from memory once.
"""

from __future__ import annotations

import numpy as np

from sparsing.decode.engine.native import bytes_at, floats_at, half_at
from sparsing.decode.kernels.cpu.compiled import compiled

_Q8_0, _Q8_1, _Q8_K = 8, 9, 15
"""ggml's codes of the forms."""
_BLOCKS = {_Q8_0: (32, 34), _Q8_1: (32, 36), _Q8_K: (256, 292)}
"""Code to values and bytes of a block."""
_LINE = 64


def part_bytes(input_code: int, columns: int) -> int:
    """Bytes of an input with this number of values, rounded up; 0 for a form that is no 8-bit form."""
    if input_code not in _BLOCKS:
        return 0
    block, size = _BLOCKS[input_code]
    return -(-columns // block * size // _LINE) * _LINE


@compiled()
def subtract_codes(form, x, codes, out, count):
    """`out = x - codes`: the rounding error of the codes of `count` values; `x`, `codes` and `out` are addresses.

    A block begins with its scale, in float16 or, for `Q8_K`, in float32. In `Q8_1` the scaled sum follows.
    """
    block, size = (256, 292) if form == _Q8_K else (32, 36 if form == _Q8_1 else 34)
    head = 2 if form == _Q8_0 else 4
    values, rest = floats_at(x, count), floats_at(out, count)
    for first in range(0, count, block):
        scale = floats_at(codes, 1)[0] if form == _Q8_K else half_at(codes)
        rounded = bytes_at(codes + head, block)
        for j in range(block):
            rest[first + j] = values[first + j] - scale * np.float32(rounded[j])
        codes += size
