"""The advice on the dtype: which dtype it names, what it says about the cost, and for which models it times."""

from __future__ import annotations

import dataclasses

import pytest

import sparsing.measuring.dtype_advice as dtype_advice
from sparsing.measuring.dtype_advice import describe_faster_dtype, faster_dtype_advice
from sparsing.models.loading import LoadedModel

from ..helpers.tiny import tiny_tokenizer


def advice(dtype: str, float32: float, bfloat16: float, float16: float) -> str | None:
    return describe_faster_dtype(dtype, {"float32": float32, "bfloat16": bfloat16, "float16": float16})


def test_bfloat16_on_a_machine_without_its_instructions():
    assert advice("bfloat16", 1.0, 3.1, 4.0) == (
        "matrix products in bfloat16 take 3.1 times as long as in float32 on this machine: --dtype float32 would be"
        " faster and has no rounding noise, but the weights need twice the memory"
    )


def test_float32_on_a_machine_with_fast_bfloat16():
    assert advice("float32", 2.8, 1.0, 9.0) == (
        "matrix products in float32 take 2.8 times as long as in bfloat16 on this machine: --dtype bfloat16 would be"
        " faster, but its rounding moves perplexity ratios (`sparsing measure` states by how much)"
    )


@pytest.mark.parametrize(
    ("dtype", "seconds", "parts"),
    [
        (
            "float32",
            (2.0, 1.5, 1.0),
            ["--dtype float16", "its rounding moves", "values above 65504 overflow"],
        ),
        (
            "bfloat16",
            (3.0, 2.5, 1.0),
            ["--dtype float16", "8 times as finely", "values above 65504 overflow"],
        ),
        ("float16", (2.5, 1.0, 3.0), ["--dtype bfloat16", "3.0 times", "rounds 8 times as coarsely"]),
        ("float16", (1.0, 0.9, 5.0), ["--dtype float32", "5.0 times", "no rounding noise"]),
    ],
)
def test_other_pairs_of_dtypes(dtype, seconds, parts):
    sentence = advice(dtype, *seconds)
    assert sentence is not None
    assert all(part in sentence for part in parts)
    assert sentence.count("--dtype") == 1


def test_float32_comes_first_and_a_still_faster_dtype_second():
    sentence = advice("float16", 1.0, 0.25, 3.0)
    assert sentence is not None
    first, second = sentence.split("; ")
    assert "--dtype float32 would be faster and has no rounding noise" in first
    assert second.startswith("--dtype bfloat16 would be another 4.0 times as fast, but it rounds 8 times")


def test_the_models_own_dtype_is_never_the_second_choice():
    sentence = advice("bfloat16", 1.0, 2.0, 0.9)
    assert sentence is not None
    assert sentence.count("--dtype") == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_small_differences_are_not_mentioned(dtype):
    assert advice(dtype, 1.0, 1.5, 1.2) is None
    assert advice(dtype, 1.5, 1.0, 1.2) is None


@pytest.fixture
def loaded(tiny_model) -> LoadedModel:
    """A tiny model that claims the size of a large one."""
    loaded = LoadedModel.of(tiny_model("llama"), tiny_tokenizer())
    return dataclasses.replace(loaded, num_parameters=dtype_advice.MIN_PARAMETERS)


def test_a_model_is_timed_at_its_own_sizes(loaded, monkeypatch):
    sizes = []
    seconds = {"float32": 2.0, "bfloat16": 1.0, "float16": 1.0}
    monkeypatch.setattr(dtype_advice, "time_dtypes", lambda *size: sizes.append(size) or seconds)
    assert "float32 take 2.0 times" in (faster_dtype_advice(loaded) or "")
    assert sizes == [(32, 96)]


@pytest.mark.parametrize(
    "change",
    [{"num_parameters": dtype_advice.MIN_PARAMETERS - 1}, {"device": "cuda:0"}, {"dtype": "float64"}],
)
def test_other_models_are_not_timed(loaded, monkeypatch, change):
    monkeypatch.setattr(dtype_advice, "time_dtypes", lambda *_: pytest.fail("dtypes were timed"))
    assert faster_dtype_advice(dataclasses.replace(loaded, **change)) is None
