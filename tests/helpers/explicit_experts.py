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


class ExplicitModel:
    """Runs a model in which every site is computed neuron by neuron, with the neurons below a threshold dropped.

    After a run, `active` holds the active set of every (token, expert) by site, `error` the CETT of each token, and
    `parts` the output of the dropped neurons and of all neurons.
    """

    def __init__(self, model: nn.Module, sites: Sequence[Site], thresholds: dict[str, float | list[float]]):
        self.model, self.sites, self.thresholds = model, sites, thresholds
        self.drop = True
        """False leaves the model dense; the active sets and the errors are those of the thresholds all the same."""

    def run(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits of one window, shape `(tokens, vocabulary)`."""
        self.active: dict[str, dict[tuple[int, int], torch.Tensor]] = {}
        self.error: dict[str, list[float]] = {}
        self.parts: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        undo = []
        for site in self.sites:
            self.active[site.name], self.error[site.name], self.parts[site.name] = {}, [], []
            module: Any = self.model.get_submodule(site.name)
            if site.kind == "expert":
                module.forward = lambda *inputs, site=site, module=module: self._experts(site, module, inputs)
                undo.append(lambda module=module: delattr(module, "forward"))
            else:
                hook = module.register_forward_pre_hook(
                    lambda module, inputs, site=site: (self._ordinary(site, module, inputs[0]),)
                )
                undo.append(hook.remove)
        try:
            with torch.no_grad():
                return self.model(ids[None]).logits[0]
        finally:
            for action in undo:
                action()

    def _keep(self, site: Site, key: tuple[int, int], h: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
        threshold = self.thresholds[site.name]
        limit = threshold[key[1]] if isinstance(threshold, list) else threshold
        active = h.abs() * norm > limit
        self.active[site.name][key] = active
        return active

    def _add(self, site: Site, dropped: torch.Tensor, full: torch.Tensor) -> None:
        self.parts[site.name].append((dropped, full))
        self.error[site.name].append(float(dropped.norm() / full.norm()) if dropped.any() else 0.0)

    def _ordinary(self, site: Site, module: Any, h: torch.Tensor) -> torch.Tensor:
        flat, norm = h.reshape(-1, h.shape[-1]).clone(), module.weight.norm(dim=0)
        for token, row in enumerate(flat):
            active = self._keep(site, (token, 0), row, norm)
            self._add(site, module.weight @ (row * ~active), module.weight @ row)
            if self.drop:
                row.mul_(active)
        return flat.view(h.shape)

    def _experts(self, site: Site, experts: Any, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        dense = len(inputs) == 1
        n_tokens = len(inputs[0]) // (len(experts.down_proj) if dense else 1)
        d_model = site.d_model
        sums, dropped, full = (inputs[0].new_zeros(n_tokens, d_model) for _ in range(3))
        per_expert = inputs[0].new_zeros(len(experts.down_proj), n_tokens, d_model)
        zero = inputs[0].new_zeros(site.d_ff)
        for token, expert, x, weight in routes(experts, inputs):
            _, h = explicit_expert(experts, expert, x)
            bias = explicit_down(experts, expert, zero)
            norm = torch.stack([explicit_down(experts, expert, e) - bias for e in torch.eye(len(h)).to(h)])
            active = self._keep(site, (token, expert), h, norm.norm(dim=1) * weight)
            lost = explicit_down(experts, expert, h * ~active) - bias
            own = explicit_down(experts, expert, h) - bias
            dropped[token] += weight * lost
            full[token] += weight * own
            kept = weight * (own - lost + bias if self.drop else own + bias)
            sums[token] += kept
            per_expert[expert, token] += kept
        for one, whole in zip(dropped, full, strict=True):
            self._add(site, one, whole)
        return per_expert.flatten(0, 1) if dense else sums
