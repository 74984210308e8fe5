"""Gated blocks with separate projections: `h = act_fn(gate_proj(x)) * up_proj(x)`, the shape of Llama."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparsing.sites.layouts import Layout, model_type, register_family, sites_at
from sparsing.sites.site import Site

if TYPE_CHECKING:
    from torch import nn

_LLAMA = Layout(
    layers="model.layers",
    ffn="mlp",
    down_proj="down_proj",
    act="act_fn",
    projections=("gate_proj", "up_proj"),
)

LAYOUTS = {
    "cohere": _LLAMA,
    "cohere2": _LLAMA,
    "cwm": _LLAMA,
    "diffllama": _LLAMA,
    "ernie4_5": _LLAMA,
    "exaone4": _LLAMA,
    "falcon_h1": _LLAMA.but(ffn="feed_forward"),
    "gemma": _LLAMA,
    "gemma2": _LLAMA,
    "gemma3": _LLAMA.but(layers="model.language_model.layers"),
    "gemma3_text": _LLAMA,
    "granite": _LLAMA,
    "helium": _LLAMA,
    "hunyuan_v1_dense": _LLAMA,
    "llama": _LLAMA,
    "ministral": _LLAMA,
    "ministral3": _LLAMA,
    "mistral": _LLAMA,
    "olmo": _LLAMA,
    "olmo2": _LLAMA,
    "olmo3": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "seed_oss": _LLAMA,
    "smollm3": _LLAMA,
    "stablelm": _LLAMA,
    "vaultgemma": _LLAMA,
}


@register_family(*LAYOUTS)
def sites(model: nn.Module) -> list[Site]:
    return sites_at(model, LAYOUTS[model_type(model)])
