"""What is checked and laid out before a block is handed to kernels: arguments, what it computes, where weights lie."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

import torch

from sparsing.decode.kernels.cuts import no_cuts
from sparsing.decode.kernels.dispatch import check_kernels
from sparsing.decode.kernels.packing import PackedFFN, to_int8
from sparsing.decode.kernels.pages import on_huge_pages
from sparsing.decode.kernels.plain import ffn
from sparsing.errors import InputError, UnsupportedModelError

if TYPE_CHECKING:
    from torch import nn

    from sparsing.decode.swap import Swap
    from sparsing.rules.thresholds import Thresholds
    from sparsing.sites.site import Site

Mode = Literal["sparse", "dense", "torch"]
MODES = ("sparse", "dense", "torch")
DTYPES = ("float32", "bfloat16", "float16", "int8")
"""Weights that kernels take; float16 on a GPU only."""
_CHECK = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Allowed distance of the packed block from the model's own, relative, by the model's dtype."""


def check_mode(mode: str, thresholds: Thresholds | None) -> None:
    """Raise InputError for an unknown mode, or for `sparse` without thresholds."""
    if mode not in MODES or (mode == "sparse" and thresholds is None):
        raise InputError(f"mode must be one of {', '.join(MODES)} (sparse needs thresholds), got {mode!r}")


def check_arguments(model: nn.Module, thresholds: Thresholds | None, mode: str, dtype: str | None) -> None:
    """Refuse, before anything is touched, what no kernel can do."""
    check_mode(mode, thresholds)
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}, or None for the model's, got {dtype!r}")
    if thresholds is not None and not thresholds.selection.is_threshold:
        raise InputError(
            f"kernels skip by thresholds, these select by {thresholds.select!r};"
            " measure with a threshold rule: cett, fat"
        )
    devices = {str(parameter.device) for parameter in model.parameters()}
    if len(devices) > 1:
        raise InputError(
            f"a model spread over {', '.join(sorted(devices))} is not accelerated; load it on one"
        )
    device = next(model.parameters()).device.type
    check_kernels(device)
    if device == "cpu" and (dtype or str(model.dtype).removeprefix("torch.")) in ("float16", "float64"):
        raise InputError(
            "no CPU kernel takes float16 or float64; load the model with dtype bfloat16 or float32"
        )


def checked(module: nn.Module, site: Site, packed: PackedFFN) -> PackedFFN:
    """The packed block, which was seen to compute what the module does.

    Raises:
        UnsupportedModelError: it does not, e.g. because the module scales its gate or its output.
    """
    weight = packed.gate
    x = torch.randn(1, 4, packed.d_model, generator=torch.Generator().manual_seed(0)).to(weight)
    with torch.no_grad():
        wanted = module(x)[0].float()
        got = ffn(packed, x[0], no_cuts(packed.d_ff))
    distance = float((got - wanted).norm() / wanted.norm())
    if not distance <= _CHECK[weight.dtype]:
        raise UnsupportedModelError(
            f"{site.block}: {type(module).__name__} computes more than act(gate) * up and down (its output differs"
            f" by {distance:.1%}), so no kernel can stand for it"
        )
    return packed


def converted(packed: PackedFFN, dtype: str | None) -> PackedFFN:
    """The block in the dtype its kernel shall read."""
    if dtype == "int8":
        return to_int8(packed)
    wanted = packed.gate.dtype if dtype is None else getattr(torch, dtype)
    if wanted == packed.gate.dtype:
        return packed
    gate, up, down = (weight.to(wanted) for weight in (packed.gate, packed.up, packed.down))
    return dataclasses.replace(packed, gate=gate, up=up, down=down)


def paged(packed: PackedFFN, *, fused: bool) -> PackedFFN:
    """The block on huge pages, where rows taken here and there are found sooner; on a CPU only.

    Fused projections share one parameter and stay where they are, or they would be in memory twice.
    """
    if packed.gate.device.type != "cpu":
        return packed
    names = ("down",) if fused else ("gate", "up", "down")
    return dataclasses.replace(packed, **{name: on_huge_pages(getattr(packed, name)) for name in names})


def share(swap: Swap, site: Site, packed: PackedFFN) -> None:
    """Let the block's parameters be views of what the kernel reads, where they are not already."""
    places = [(site.down_proj, packed.down if site.transposed else packed.down.T)]
    if len(site.projections) == 2:  # fused ones are read where they are
        places += zip(site.projections, (packed.gate, packed.up), strict=True)
    for module, rows in places:
        weight = module.get_parameter("weight")
        if weight.data_ptr() != rows.data_ptr():
            swap.memory(weight, rows)
