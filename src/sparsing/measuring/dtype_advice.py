"""Says which dtype would be faster than the model's own on this machine, and what that dtype costs.

Checkpoints come in the dtype of their authors' accelerators, often bfloat16, which some CPUs compute several times
faster than float32 and others several times slower. The dtype is never changed without the user, since it changes the
figures. Start with `faster_dtype_advice`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sparsing.hardware.dtype_speed import time_dtypes

if TYPE_CHECKING:
    from sparsing.models.loading import LoadedModel

MIN_PARAMETERS = 20_000_000
"""Smaller models are measured so quickly that the timing would cost more than it saves."""
MIN_FACTOR = 1.5
"""Dtypes that are faster by less than this factor are not mentioned: a whole model gains less than its products."""

_NOISE = "moves perplexity ratios (`sparsing measure` states by how much)"
_OVERFLOW = "values above 65504 overflow"
_COSTS = {
    ("bfloat16", "float32"): " and has no rounding noise, but the weights need twice the memory",
    ("float16", "float32"): " and has no rounding noise, but the weights need twice the memory",
    ("float32", "bfloat16"): f", but its rounding {_NOISE}",
    ("float32", "float16"): f", but its rounding {_NOISE}, and {_OVERFLOW}",
    ("float16", "bfloat16"): f", but it rounds 8 times as coarsely as float16, which {_NOISE}",
    ("bfloat16", "float16"): f" and rounds 8 times as finely as bfloat16, but {_OVERFLOW}",
}
"""The dtype of the model and the faster dtype, to the end of the sentence."""


def faster_dtype_advice(loaded: LoadedModel) -> str | None:
    """The sentence of `describe_faster_dtype` for a model, from a timing of about one second on this machine.

    Returns None without a timing if the model has fewer than `MIN_PARAMETERS` parameters, is not entirely on the CPU,
    or has a dtype that is not timed. Accelerators compute half precision at least as fast as float32.
    """
    if loaded.device != "cpu" or loaded.num_parameters < MIN_PARAMETERS or loaded.dtype == "float64":
        return None
    site = loaded.sites[0]
    return describe_faster_dtype(loaded.dtype, time_dtypes(site.d_model, site.d_ff))


def describe_faster_dtype(dtype: str, seconds: Mapping[str, float]) -> str | None:
    """One sentence that names a faster dtype and its cost; None if no dtype is faster by `MIN_FACTOR`.

    If float32 is among the faster dtypes, it is named first, since it costs no accuracy.

    Args:
        dtype: The dtype of the model.
        seconds: Dtype to the time of the same matrix products, as `time_dtypes` returns it.
    """
    fastest = min(seconds, key=lambda name: seconds[name])
    named = "float32" if _factor(seconds, dtype, "float32") > MIN_FACTOR else fastest
    if _factor(seconds, dtype, named) <= MIN_FACTOR:
        return None
    sentence = (
        f"matrix products in {dtype} take {_factor(seconds, dtype, named):.1f} times as long as in {named} on this"
        f" machine: --dtype {named} would be faster{_COSTS[dtype, named]}"
    )
    # float32 removes the noise, but the other half-precision dtype may be much faster still
    if fastest not in (named, dtype) and (more := _factor(seconds, named, fastest)) > MIN_FACTOR:
        sentence += f"; --dtype {fastest} would be another {more:.1f} times as fast{_COSTS[dtype, fastest]}"
    return sentence


def _factor(seconds: Mapping[str, float], dtype: str, other: str) -> float:
    """How many times as long as `other` the dtype takes."""
    return seconds[dtype] / seconds[other]
