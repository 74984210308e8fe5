"""Routed experts by their definition: one expert and one token at a time, from the model's own parameters.

Written without the code under test: the matrices are read here, and the activation of each type is repeated.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from sparsing.sites.site import Site

Row = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""gate, h, routing weight and unweighted output of a token in an expert."""


def explicit_expert(experts: Any, expert: int, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """gate and h of one token, shape `(d_ff,)`."""
    kind = type(experts).__name__
    if kind == "NemotronHExperts":
        h = F.relu(experts.up_proj[expert] @ x) ** 2
        return h, h
    matrix = experts.gate_up_proj[expert]
    if kind == "GptOssExperts":
        both = x @ matrix + experts.gate_up_proj_bias[expert]
        gate, up = both[::2].clamp(max=experts.limit), both[1::2].clamp(-experts.limit, experts.limit)
        gate = gate / (1 + torch.exp(-experts.alpha * gate))
        return gate, gate * (up + 1)
    gate, up = (x @ matrix if kind == "Llama4TextExperts" else matrix @ x).chunk(2)
    gate = gate / (1 + torch.exp(-gate))
    return gate, gate * up


def explicit_down(experts: Any, expert: int, h: torch.Tensor) -> torch.Tensor:
    """Output of one token without the routing weight, shape `(d_model,)`."""
    matrix = experts.down_proj[expert]
    y = h @ matrix if type(experts).__name__ in ("GptOssExperts", "Llama4TextExperts") else matrix @ h
    return y + experts.down_proj_bias[expert] if hasattr(experts, "down_proj_bias") else y


def routes(
    experts: Any, inputs: Sequence[torch.Tensor]
) -> Iterator[tuple[int, int, torch.Tensor, torch.Tensor]]:
    """Token, expert, input and weight of every pair that is routed."""
    if len(inputs) == 1:  # Llama 4 scales the inputs, to zero where a token is not routed
        for expert, block in enumerate(inputs[0].view(len(experts.down_proj), -1, inputs[0].shape[-1])):
            for token, x in enumerate(block):
                if x.any():
                    yield token, expert, x, torch.ones((), dtype=x.dtype)
        return
    x, index, weight = inputs
    for token, chosen in enumerate(index.tolist()):
        for place, expert in enumerate(chosen):
            yield token, expert, x[token], weight[token, place]


@contextlib.contextmanager
def explicit_rows(model: nn.Module, sites: Sequence[Site]) -> Iterator[dict[str, dict[tuple[int, int], Row]]]:
    """Fills a dict: site name to (token, expert) to the row, for the next forward of the model."""
    found: dict[str, dict[tuple[int, int], Row]] = {}

    def keep(name: str):
        def hook(experts: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            found[name] = {}
            for token, expert, x, weight in routes(experts, inputs):
                gate, h = explicit_expert(experts, expert, x)
                found[name][token, expert] = gate, h, weight, explicit_down(experts, expert, h)

        return hook

    handles = [model.get_submodule(site.name).register_forward_pre_hook(keep(site.name)) for site in sites]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
