"""Blocks without a gate and with `Linear` projections, as in OPT: `h = act(up_proj(x))`.

In these blocks `gate` is `h`, so a layout names only `down_proj`, whose input is `h`. Blocks without a gate whose
projections are `Conv1D` are in `conv1d.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparsing.sites.layouts import Layout, model_type, register_family, sites_at
from sparsing.sites.site import Site

if TYPE_CHECKING:
    from torch import nn

_NEOX = Layout(layers="gpt_neox.layers", ffn="mlp", down_proj="dense_4h_to_h")
_GPTJ = Layout(layers="transformer.h", ffn="mlp", down_proj="fc_out")
_NEMOTRON = Layout(layers="model.layers", ffn="mlp", down_proj="down_proj")
_PHI = Layout(layers="model.layers", ffn="mlp", down_proj="fc2")
_XGLM = Layout(layers="model.layers", ffn="", down_proj="fc2")

LAYOUTS = {
    "apertus": _NEMOTRON,
    "arcee": _NEMOTRON,
    "biogpt": _XGLM.but(layers="biogpt.layers"),
    "bloom": _NEOX.but(layers="transformer.h"),
    "codegen": _GPTJ,
    "falcon": _NEOX.but(layers="transformer.h"),
    "gpt_bigcode": _GPTJ.but(down_proj="c_proj"),
    "gpt_neo": _GPTJ.but(down_proj="c_proj"),
    "gpt_neox": _NEOX,
    "gpt_neox_japanese": _NEOX.but(layers="gpt_neox_japanese.layers"),
    "gptj": _GPTJ,
    "jais2": _NEMOTRON,
    "mpt": Layout(layers="transformer.blocks", ffn="ffn", down_proj="down_proj"),
    "nanochat": _PHI,
    "nemotron": _NEMOTRON,
    "opt": _XGLM.but(layers="model.decoder.layers"),
    "persimmon": _NEOX.but(layers="model.layers"),
    "phi": _PHI,
    "starcoder2": _PHI.but(down_proj="c_proj"),
    "xglm": _XGLM,
}


@register_family(*LAYOUTS)
def sites(model: nn.Module) -> list[Site]:
    return sites_at(model, LAYOUTS[model_type(model)])
