"""Routed experts: found in any model by the 3-D parameters in which transformers 5 stores the experts of a layer.

A module with the parameters `gate_up_proj` (or `up_proj`) and `down_proj`, each with one matrix per expert, is one site
of kind `expert`. The flags of transformers' experts interface describe its layout. A module without these flags
(Llama 4, Step-3) is used only if our computation gives the same numbers as its own `forward`.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from sparsing.errors import UnsupportedModelError
from sparsing.sites.effective_weight import expert_weight, is_unquantised
from sparsing.sites.module_tree import named_modules
from sparsing.sites.routed import See, run_dense_experts, run_interface_experts
from sparsing.sites.site import Site

if TYPE_CHECKING:
    import torch
    from torch import nn

_TOP_K = ("top_k", "num_experts_per_tok", "top_k_experts")
"""Attributes of a router, of the block around it, or of the config, that hold the number of experts per token."""


def routed_sites(model: nn.Module) -> list[Site]:
    """One site for the routed experts of each layer that has them, in layer order; empty for a dense model.

    Raises:
        UnsupportedModelError: If the experts of a layer cannot be tapped. The message names the module and the reason.
    """
    return [_site(model, name, module) for name, module in expert_modules(model)]


def expert_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules that hold all routed experts of a layer, with their paths."""
    for name, module in named_modules(model):
        own = dict(module.named_parameters(recurse=False))
        into = own.keys() & {"gate_up_proj", "gate_proj", "up_proj"}
        if "down_proj" in own and own["down_proj"].ndim == 3 and into in ({"gate_up_proj"}, {"up_proj"}):
            yield name, module


def _site(model: nn.Module, name: str, module: nn.Module) -> Site:
    block = name.rpartition(".")[0]
    experts: Any = module
    weight = expert_weight(module, name)
    if not is_unquantised(weight):
        raise UnsupportedModelError(
            f"{name}: down_proj is {weight.dtype}, but it must be float32, float64, bfloat16 or float16; load a"
            " checkpoint that is not quantized"
        )
    into = experts.gate_up_proj if hasattr(experts, "gate_up_proj") else experts.up_proj
    if into.shape[0] != weight.shape[0]:
        raise UnsupportedModelError(
            f"{name}: {into.shape[0]} experts have an input matrix and {weight.shape[0]} have down_proj; such experts"
            " cannot be measured"
        )
    if getattr(experts, "has_post_expert_norm", False):
        raise UnsupportedModelError(
            f"{name}: a norm is applied to the output of each expert, so the output is no sum over neurons and CETT is"
            " not defined; such experts cannot be measured"
        )
    top_k, run = _top_k(model, block), _run(module)
    layers = re.findall(r"\.(\d+)\.", f".{block}.")
    site = Site(
        name=name,
        layer=int(layers[0]),
        block=block,
        kind="expert",
        down_proj=module,
        transposed=_is_transposed(experts),
        n_experts=weight.shape[0],
        top_k=top_k,
        moe_block=model.get_submodule(block),
        run_experts=run if run is run_interface_experts else functools.partial(run, top_k=top_k),
    )
    if not hasattr(module, "has_gate"):
        _prove(site)
    return site


def _top_k(model: nn.Module, block: str) -> int:
    # a config may have one number for all layers where the layers differ, so the modules come first
    config = cast("Any", model.config).get_text_config()
    for owner in (*model.get_submodule(block).modules(), config):
        for name in _TOP_K:
            if isinstance(value := getattr(owner, name, None), int):
                return value
    raise UnsupportedModelError(
        f"{block}: neither its modules nor the config have an attribute {' or '.join(_TOP_K)}, so the number of experts"
        " per token is not known; such experts cannot be measured"
    )


def _run(module: nn.Module) -> Any:
    inputs = [p for p in inspect.signature(type(module).forward).parameters if p != "self"]
    return run_dense_experts if len(inputs) == 1 else run_interface_experts


def _is_transposed(experts: Any) -> bool:
    """Whether `down_proj` is stored `(n_experts, d_ff, d_model)`."""
    if hasattr(experts, "is_transposed"):
        return experts.is_transposed
    return experts.gate_up_proj.shape[1] == experts.down_proj.shape[2]


def _prove(site: Site) -> None:
    """Compares our computation with the module's own on random numbers.

    Raises:
        UnsupportedModelError: If they differ.
    """
    import torch

    module: Any = site.down_proj
    assert site.run_experts is not None
    generator = torch.Generator().manual_seed(0)
    options: dict[str, Any] = {"device": site.device, "dtype": site.weight.dtype}
    tokens = 2
    x = torch.randn(tokens, site.d_model, generator=generator).to(**options)
    index = torch.stack(
        [torch.randperm(site.n_experts, generator=generator)[: site.top_k] for _ in range(tokens)]
    )
    weight = torch.rand(tokens, site.top_k, generator=generator).to(**options)
    inputs: tuple[torch.Tensor, ...] = (x, index.to(site.device), weight)
    if site.run_experts is not run_interface_experts:
        scores = torch.zeros(tokens, site.n_experts, **options).scatter(1, inputs[1], weight)
        inputs = ((scores.T[..., None] * x).flatten(0, 1),)
    with torch.no_grad():
        own, ours = module(*inputs), site.run_experts(module, See([]), *inputs)[0]
    scale = float(own.float().abs().max())
    if own.shape != ours.shape or float((own - ours).float().abs().max()) > 1e-2 * scale:
        raise UnsupportedModelError(
            f"{site.name}: {type(module).__name__} does not compute the sum over experts of down_proj(act(gate) * up);"
            " such experts cannot be measured"
        )
