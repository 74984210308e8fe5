"""The second part of an input is the rounding error of the first part, for each 8-bit form of ggml."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from numba import njit

pytest.importorskip("llama_cpp", reason="needs llama-cpp-python, whose ggml rounds the inputs")

from sparsing.decode.engine.ggml import weight_type
from sparsing.decode.engine.input_forms import part_bytes, subtract_codes
from sparsing.decode.engine.native import half_at

FORMS = {8: 32, 9: 32, 15: 256}
"""ggml's code of a form to the values that share a scale."""


@njit
def halves_of(address, count):
    out = np.empty(count, np.float32)
    for i in range(count):
        out[i] = half_at(address + 2 * i)
    return out


def test_every_float16():
    bits = np.arange(2**16).astype(np.uint16)
    np.testing.assert_array_equal(
        halves_of(bits.ctypes.data, bits.size), bits.view(np.float16).astype(np.float32)
    )


@pytest.mark.parametrize("size", [0.0, 1e-3, 1.0, 1e3])
@pytest.mark.parametrize("form", FORMS)
def test_error_of_the_codes(form, size):
    x = (np.random.default_rng(form).standard_normal(512) * size).astype(np.float32)
    codes, rest = np.zeros(part_bytes(form, x.size), np.uint8), np.empty_like(x)
    convert = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    convert(weight_type(form).from_float)(x.ctypes.data, codes.ctypes.data, x.size)
    subtract_codes(form, x.ctypes.data, codes.ctypes.data, rest.ctypes.data, x.size)
    steps = np.abs(x.reshape(-1, FORMS[form])).max(1, keepdims=True) / 127
    # half a step, and the rounding of the scale to float16
    assert (np.abs(rest.reshape(steps.shape[0], -1)) <= steps * 0.57 + 4e-6).all()
    if size:
        assert 0.1 < np.abs(rest).mean() / steps.mean() < 0.4


def test_other_forms_have_one_part():
    assert [part_bytes(code, 512) for code in (0, 1, 30)] == [0, 0, 0]
