"""Gated blocks with one fused projection, as in Phi-3 and GLM: `gate, up = gate_up_proj(x).chunk(2)`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparsing.sites.layouts import Layout, model_type, register_family, sites_at
from sparsing.sites.site import Site

if TYPE_CHECKING:
    from torch import nn

_PHI3 = Layout(
    layers="model.layers",
    ffn="mlp",
    down_proj="down_proj",
    act="activation_fn",
    projections=("gate_up_proj",),
)

LAYOUTS = {
    "glm": _PHI3,
    "glm4": _PHI3,
    "phi3": _PHI3,
}


@register_family(*LAYOUTS)
def sites(model: nn.Module) -> list[Site]:
    return sites_at(model, LAYOUTS[model_type(model)])
