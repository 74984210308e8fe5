"""Names of dtypes: every spelling that users type becomes the name of torch."""

from __future__ import annotations

import pytest
import torch

from sparsing.base.dtype_names import check_dtype_name, full_dtype_name
from sparsing.errors import InputError


@pytest.mark.parametrize(
    ("spellings", "full"),
    [
        (("fp32", "f32", "FP32", "float", "float32", "torch.float32", torch.float32), "float32"),
        (("bf16", "BF16", "bfloat16", torch.bfloat16), "bfloat16"),
        (("fp16", "f16", "half", "float16", torch.float16), "float16"),
        (("fp64", "double", torch.float64), "float64"),
        (("int8",), "int8"),
    ],
)
def test_spellings(spellings, full):
    assert {full_dtype_name(name) for name in spellings} == {full}
    assert isinstance(getattr(torch, full), torch.dtype)


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(InputError, match=r"unknown dtype 'bflaot16'\. Did you mean: bfloat16\? Available: a"):
        check_dtype_name("bflaot16", ("a", "bfloat16"))
    assert check_dtype_name("bf16", ("a", "bfloat16")) == "bfloat16"
