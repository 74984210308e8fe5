"""Blocks without a gate whose projections are `Conv1D`, weights stored `(in, out)`: GPT and GPT-2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparsing.sites.layouts import Layout, register_family, sites_at
from sparsing.sites.site import Site

if TYPE_CHECKING:
    from torch import nn

_GPT2 = Layout(layers="transformer.h", ffn="mlp", down_proj="c_proj", transposed=True)


@register_family("gpt2", "openai-gpt")
def sites(model: nn.Module) -> list[Site]:
    return sites_at(model, _GPT2)
