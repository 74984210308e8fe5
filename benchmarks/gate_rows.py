"""Times the product of a Q8_0 gate matrix with one input, on one thread.

    python benchmarks/gate_rows.py

`pages` compares ordinary memory, with pages of 4 KiB, and pages of 2 MiB. `first_look` times a way that the GGUF engine
does not use: all gates from a Q4_0 copy (ggml's product of eight interleaved rows), then the
exact gates of 11% of the neurons, whose rows are asked for one chunk ahead. Run it with nothing else running.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import torch
from _common import save
from numba import njit

from sparsing.bench.shapes import SHAPES
from sparsing.decode.engine.ggml import function_address, weight_type
from sparsing.decode.engine.native import LINE, call_convert, call_dot, call_gemv, request_line
from sparsing.decode.engine.packed_rows import GEMV, interleaved
from sparsing.decode.kernels.pages import copy_to_huge_pages

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]

MATRICES = 12
"""Matrices that are read in turn, more than a cache holds."""
CHUNK, EIGHT, Q8_0 = 64, 8, 8
EXACT = 0.11
"""Share of the neurons whose predicted gate is above its threshold minus four standard deviations, at 7% active."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="0.8B")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    shape = SHAPES[args.shape]
    rows = random_rows(shape.d_ff, shape.d_model)
    save("gate_rows", times(rows, args.rounds), args.shape)


def random_rows(d_ff: int, d_model: int) -> Array:
    """Random matrices in Q8_0, shape `(MATRICES, d_ff, row bytes)`, uint8."""
    values = np.random.default_rng(0).standard_normal((MATRICES, d_ff, d_model), np.float32)
    return np.stack([gguf.quantize(matrix, gguf.GGMLQuantizationType.Q8_0) for matrix in values])


def times(rows: Array, rounds: int) -> dict[str, Any]:
    """Median milliseconds of a matrix and GB/s for each case; the cases take turns."""
    rng, own = np.random.default_rng(1), weight_type(Q8_0)
    huge = copy_to_huge_pages(torch.from_numpy(rows)).numpy()
    plain = torch.from_numpy(rows).clone().numpy()  # NumPy itself asks for huge pages
    quantised = [gguf.dequantize(matrix, gguf.GGMLQuantizationType.Q8_0) for matrix in rows]
    fours = [gguf.quantize(matrix, gguf.GGMLQuantizationType.Q4_0) for matrix in quantised]
    packed = copy_to_huge_pages(torch.from_numpy(np.stack([interleaved(four, "Q4_0") for four in fours])))
    d_ff, d_model = quantised[0].shape
    x, codes = rng.standard_normal(d_model).astype(np.float32), np.zeros(8 * d_model, np.uint8)
    _convert(own.from_float, x.ctypes.data, codes.ctypes.data, d_model)
    wanted = [np.flatnonzero(rng.random(d_ff) < EXACT) for _ in range(MATRICES)]
    none, out = np.zeros(0, np.int64), np.zeros(d_ff, np.float32)
    four_bytes, row_bytes = fours[0].nbytes, rows.shape[2]
    gemv = function_address(GEMV["Q4_0"])

    def exact(matrices: Array) -> None:
        for matrix in matrices:
            _dots(matrix.ctypes.data, d_ff, row_bytes, own.dot, d_model, codes.ctypes.data, out)

    def first_look(neurons: list[Array]) -> None:
        for copy, matrix, asked in zip(packed, huge, neurons, strict=True):
            _look(
                *(copy.data_ptr(), four_bytes // d_ff, gemv, matrix.ctypes.data, row_bytes, own.dot),
                *(d_ff, d_model, codes.ctypes.data, asked, out),
            )

    exact_bytes, looked = d_ff * row_bytes, int(np.mean([len(asked) for asked in wanted])) * row_bytes
    cases = {
        "pages": {
            "4 KiB": (lambda: exact(plain), exact_bytes),
            "2 MiB": (lambda: exact(huge), exact_bytes),
        },
        "first_look": {
            "Q4_0 copy": (lambda: first_look([none] * MATRICES), four_bytes),
            "Q4_0 copy and exact rows": (lambda: first_look(wanted), four_bytes + looked),
        },
    }
    seconds: dict[str, list[float]] = {name: [] for part in cases.values() for name in part}
    for _ in range(rounds + 1):
        for part in cases.values():
            for name, (run, _) in part.items():
                began = time.perf_counter()
                run()
                seconds[name].append((time.perf_counter() - began) / MATRICES)
    return {
        part: {name: _figures(seconds[name][1:], moved) for name, (_, moved) in own_cases.items()}
        for part, own_cases in cases.items()
    }


def _figures(seconds: list[float], moved: int) -> dict[str, float]:
    low, median, high = (float(value) for value in np.percentile(seconds, [25, 50, 75]))
    return {
        "ms": 1e3 * median,
        "ms_low": 1e3 * low,
        "ms_high": 1e3 * high,
        "gb_per_sec": moved / median / 1e9,
    }


@njit(nogil=True)
def _convert(convert, source, target, count):
    call_convert(convert, source, target, count)


@njit(nogil=True)
def _dots(row, d_ff, row_bytes, dot, d_model, x, out):
    for i in range(d_ff):
        call_dot(dot, d_model, out.ctypes.data + 4 * i, row, x)
        row += row_bytes


@njit(nogil=True)
def _look(copy, copy_row_bytes, gemv, start, row_bytes, dot, d_ff, d_model, x, neurons, out):
    """Gates of a chunk from the copy; meanwhile the rows of the chunk before are asked for, and then multiplied."""
    first_asked, last_asked = 0, 0
    for first in range(0, d_ff + CHUNK, CHUNK):
        lines = (last_asked - first_asked) * (row_bytes // LINE + 1)
        k, byte = first_asked, 0
        for step in range(CHUNK // EIGHT):
            a = first + EIGHT * step
            if a < d_ff:
                call_gemv(gemv, d_model, out.ctypes.data + 4 * a, copy + a * copy_row_bytes, x, EIGHT)
            asked = lines // (CHUNK // EIGHT - step)
            lines -= asked
            for _ in range(asked):
                request_line(start + neurons[k] * row_bytes + byte)
                byte += LINE
                if byte > row_bytes:
                    k, byte = k + 1, 0
        for j in range(first_asked, last_asked):
            i = neurons[j]
            call_dot(dot, d_model, out.ctypes.data + 4 * i, start + i * row_bytes, x)
        first_asked = last_asked
        while last_asked < neurons.size and neurons[last_asked] < first + CHUNK:
            last_asked += 1


if __name__ == "__main__":
    main()
