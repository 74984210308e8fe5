"""The checks of `accelerate`: of its arguments before the model is touched, and of each block before it is replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import torch

from sparsing.base.dtype_names import check_dtype_name
from sparsing.decode.kernels.cuts import no_cuts
from sparsing.decode.kernels.dispatch import check_kernels
from sparsing.decode.kernels.plain import ffn
from sparsing.errors import InputError, UnsupportedModelError

if TYPE_CHECKING:
    from torch import nn

    from sparsing.decode.kernels.packing import PackedFFN
    from sparsing.rules.thresholds import Thresholds
    from sparsing.sites.site import Site

DecodeMode = Literal["sparse", "dense", "torch"]
DECODE_MODES: tuple[DecodeMode, ...] = get_args(DecodeMode)
WEIGHT_DTYPES = ("float32", "bfloat16", "float16", "int8")
"""Dtypes of weights that kernels take; float16 only on a GPU, int8 only on a CPU."""
_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Dtype of the model to the largest relative error of a packed block against the model's own block."""


def check_mode(mode: str, thresholds: Thresholds | None) -> None:
    """Raise `InputError` if the mode is unknown, or is `sparse` without thresholds."""
    if mode not in DECODE_MODES or (mode == "sparse" and thresholds is None):
        raise InputError(
            f"mode must be one of {', '.join(DECODE_MODES)} (sparse needs thresholds), got {mode!r}"
        )


def check_arguments(model: nn.Module, thresholds: Thresholds | None, mode: str, dtype: str | None) -> None:
    """Check what `accelerate` was given, before it changes the model.

    Raises:
        InputError: if the mode or the dtype is unknown, the thresholds are not of a threshold rule, the model is on
            several devices or on a device without kernels, or the kernels do not take its dtype.
    """
    check_mode(mode, thresholds)
    if dtype is not None:
        check_dtype_name(dtype, WEIGHT_DTYPES, hint=", or None for the dtype of the model")
    if thresholds is not None and not thresholds.cuts_blocks:
        raise InputError(
            f"the decoding kernels skip neurons by threshold, but these select {thresholds.on} by"
            f" {thresholds.select!r};"
            " measure with a threshold rule: cett, fat"
        )
    devices = {str(parameter.device) for parameter in model.parameters()}
    if len(devices) > 1:
        raise InputError(
            f"a model on several devices ({', '.join(sorted(devices))}) cannot be accelerated;"
            " load it on a single device"
        )
    device = next(model.parameters()).device.type
    check_kernels(device)
    if device == "cpu" and (dtype or str(model.dtype).removeprefix("torch.")) in ("float16", "float64"):
        raise InputError(
            "the CPU kernels do not take float16 or float64; load the model with dtype bfloat16 or float32"
        )


def check_equivalence(module: nn.Module, site: Site, packed: PackedFFN) -> None:
    """Check on random inputs that the packed block computes what the model's block `module` computes.

    Raises:
        UnsupportedModelError: if it does not, for example because the module scales its gate or its output.
    """
    weight = packed.gate
    x = torch.randn(1, 4, packed.d_model, generator=torch.Generator().manual_seed(0)).to(weight)
    with torch.no_grad():
        wanted = module(x)[0].float()
        got = ffn(packed, x[0], no_cuts(packed.d_ff))
    error = float((got - wanted).norm() / wanted.norm())
    if not error <= _TOLERANCE[weight.dtype]:  # also true of a NaN
        raise UnsupportedModelError(
            f"{site.block}: {type(module).__name__} computes more than act(gate) * up and down (its output differs"
            f" by {error:.1%}), so no kernel can replace it"
        )
