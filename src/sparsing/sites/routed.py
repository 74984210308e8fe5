"""Taps routed experts whose weights are 3-D parameters, as transformers 5 stores them.

Such experts have no module per expert to which a hook could be attached. `tap_experts` therefore replaces the `forward`
of the module that holds all experts of a layer, until the last tap is removed. The replacement computes what the
model's own implementation computes, and hands over the rows of every pair of a token and one of its experts.

Three implementations are followed: `grouped_mm` and `batched_mm` of transformers run unchanged, except for the
activation function, in which the rows are tapped. All others are computed as `eager` does, expert by expert.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch

from sparsing.sites.routing import Routing, split_rows

if TYPE_CHECKING:
    from torch import nn

OnRows = Callable[[torch.Tensor, torch.Tensor, Routing], "torch.Tensor | None"]
"""Receives gate, h (both `(rows, d_ff)`) and the routing; returns the new h, or None to leave it as it is."""
OnOutput = Callable[[torch.Tensor], None]
"""Receives the sum of the routed experts per token, shape `(tokens, d_model)`."""


@dataclasses.dataclass(frozen=True, eq=False)
class ExpertTap:
    """One user of the rows of a layer's experts."""

    on_rows: OnRows
    on_output: OnOutput | None
    gate: bool
    """False if `on_rows` does not read the gate, which may then be `h`."""


class RunExperts(Protocol):
    """Computes the experts of a layer and calls `see` once with the rows of all experts."""

    def __call__(
        self, module: nn.Module, see: See, *inputs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns what `module.forward(*inputs)` returns, and the sum per token, shape `(tokens, d_model)`."""
        ...


class See:
    """Passes the rows through all taps of a layer, in the order in which they were attached."""

    def __init__(self, taps: list[ExpertTap]):
        self._taps = taps
        self.gate = any(tap.gate for tap in taps)
        """False if no tap reads the gate."""

    def __call__(self, gate: torch.Tensor, h: torch.Tensor, routing: Routing) -> torch.Tensor:
        """The new h after all taps, shape `(rows, d_ff)`."""
        for tap in self._taps:
            changed = tap.on_rows(gate, h, routing)
            h = h if changed is None else changed
        return h


class _TappedForward:
    """Stands in for the `forward` of an experts module while the module has taps."""

    def __init__(self, module: nn.Module, run: RunExperts, attribute: str):
        self.module, self.run, self.attribute = module, run, attribute
        self.former = vars(module).get(attribute)
        """The instance's own `forward`, e.g. of accelerate; None if it is that of the class."""
        self.taps: list[ExpertTap] = []

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        taps = list(self.taps)
        output, sums = self.run(self.module, See(taps), *args, *kwargs.values())
        for tap in taps:
            if tap.on_output is not None:
                tap.on_output(sums)
        return output

    def remove(self, tap: ExpertTap) -> None:
        if tap not in self.taps:
            return
        self.taps.remove(tap)
        if not self.taps:
            if self.former is None:
                delattr(self.module, self.attribute)
            else:
                setattr(self.module, self.attribute, self.former)


@dataclasses.dataclass(frozen=True, eq=False)
class ExpertHandle:
    """Removes a tap, as the handle of a hook does."""

    forward: _TappedForward
    tap: ExpertTap

    def remove(self) -> None:
        """Removes the tap. The last tap of a module restores its `forward`. A second call does nothing."""
        self.forward.remove(self.tap)


def tap_experts(module: nn.Module, run: RunExperts, tap: ExpertTap) -> ExpertHandle:
    """Calls the tap in each forward of `module`, which holds the experts of one layer."""
    # accelerate replaces `forward` by a function that moves the inputs and then calls `_old_forward`
    attribute = "_old_forward" if hasattr(module, "_hf_hook") else "forward"
    forward = vars(module).get(attribute)
    if not isinstance(forward, _TappedForward):
        forward = _TappedForward(module, run, attribute)
        setattr(module, attribute, forward)
    forward.taps.append(tap)
    return ExpertHandle(forward, tap)


def run_interface_experts(
    module: Any, see: See, x: torch.Tensor, index: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Runs experts with the signature of transformers' experts interface.

    Args:
        x: Hidden states, shape `(tokens, d_in)`.
        index: Experts of each token, shape `(tokens, top_k)`.
        weight: Routing weights, same shape.
    """
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    name = getattr(getattr(module, "config", None), "_experts_implementation", None)
    n_experts = module.down_proj.shape[0]

    def rows(expert: torch.Tensor, order: torch.Tensor, *, by_expert: bool) -> Routing:
        k = index.shape[-1]
        return Routing(
            token=order // k,
            expert=expert,
            weight=weight.reshape(-1)[order],
            n_tokens=len(x),
            n_experts=n_experts,
            by_expert=by_expert,
        )

    flat = index.reshape(-1)
    if name == "grouped_mm":
        routing = rows(*torch.sort(flat), by_expert=True)  # the call by which `grouped_mm` orders its rows
    elif name == "batched_mm":
        routing = rows(flat, torch.arange(len(flat), device=flat.device), by_expert=False)
    else:
        sums = _eager(module, see, x, index, weight)
        return sums, sums
    implementation = cast("Callable[..., torch.Tensor]", ALL_EXPERTS_FUNCTIONS[name])
    sums = implementation(_Watched(module, see, routing), x, index, weight)
    return sums, sums


class _Watched:
    """An experts module as an implementation of transformers sees it, with rows that are tapped."""

    def __init__(self, module: Any, see: See, routing: Routing):
        self._module, self._see, self._routing = module, see, routing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def _apply_gate(self, gate_up: torch.Tensor) -> torch.Tensor:
        return self._see(*gate_and_h(self._module, gate_up, gate=self._see.gate), self._routing)

    def act_fn(self, up: torch.Tensor) -> torch.Tensor:
        """The activation of experts without a gate; called by implementations instead of `_apply_gate`."""
        h = self._module.act_fn(up)
        return self._see(h, h, self._routing)


def gate_and_h(module: Any, gate_up: torch.Tensor, *, gate: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """`gate` and `h` of gated experts from the output of `gate_up_proj`, shape `(rows, 2 * d_ff)`.

    Args:
        gate: False returns `h` in place of the gate.
    """
    from transformers.integrations import moe

    own = getattr(cast("type[Any]", type(module)), "_apply_gate", None)
    if own in (None, getattr(moe, "_default_apply_gate", None)):
        first, up = gate_up.chunk(2, dim=-1)
        act = module.act_fn(first)
        return act, act * up
    h = module._apply_gate(gate_up)
    if not gate:
        return h, h
    # `h` is linear in `up` near zero, where no clamp acts: `gate * up`, or `gate * (up + 1)` in gpt-oss. So the gate
    # is the difference between `h` at `up = 1` and `h` at `up = 0`.
    half = (
        slice(gate_up.shape[-1] // 2, None) if getattr(module, "is_concatenated", True) else slice(1, None, 2)
    )
    at = [gate_up.clone() for _ in range(2)]
    for value, copy in enumerate(at):
        copy[..., half] = value
    return module._apply_gate(at[1]) - module._apply_gate(at[0]), h


def _eager(module: Any, see: See, x: torch.Tensor, index: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Expert by expert, in the order of rows and of additions of the `eager` implementations."""
    n_tokens, n_experts = len(x), module.down_proj.shape[0]
    expert, order = index.T.reshape(-1).sort(stable=True)
    token = order % n_tokens
    routing = Routing(
        token=token,
        expert=expert,
        weight=weight.T.reshape(-1)[order],
        n_tokens=n_tokens,
        n_experts=n_experts,
        by_expert=True,
    )
    gated = hasattr(module, "gate_up_proj")
    gates: list[torch.Tensor] = []
    hs: list[torch.Tensor] = []
    # the activation too is computed expert by expert, since its bits depend on where a row lies in a vector register
    for expert, rows in enumerate(split_rows(x.index_select(0, token), routing.sizes)):
        up = _times(module, "gate_up_proj" if gated else "up_proj", expert, rows)
        gate, h = gate_and_h(module, up, gate=see.gate) if gated else (module.act_fn(up),) * 2
        gates.append(gate)
        hs.append(h)
    h = torch.cat(hs)
    h = see(torch.cat(gates) if see.gate else h, h, routing)
    pieces = [split_rows(values, routing.sizes) for values in (token, h, routing.weight)]
    sums = torch.zeros_like(x)
    for expert, (at, rows, factor) in enumerate(zip(*pieces, strict=True)):
        y = _times(module, "down_proj", expert, rows) * factor[:, None]
        sums.index_add_(0, at, y.to(sums.dtype))
    return sums


def _times(module: Any, name: str, expert: int, rows: torch.Tensor) -> torch.Tensor:
    """The rows of an expert times its matrix of this name, plus its bias."""
    matrix, bias = getattr(module, name)[expert], getattr(module, f"{name}_bias", None)
    out = rows @ (matrix if getattr(module, "is_transposed", False) else matrix.T)
    return out if bias is None else out + bias[expert]


def run_dense_experts(
    module: Any, see: See, x: torch.Tensor, *, top_k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Runs experts that multiply all experts with all tokens, where inputs are zero if a token is not routed (Llama 4).

    Only routed rows are tapped. The router scales the inputs, so the weight of every row is 1.

    Args:
        x: Inputs of expert 0, then of expert 1, ..., shape `(n_experts * tokens, d_model)`.
        top_k: Experts per token.
    """
    n_experts = module.gate_up_proj.shape[0]
    by_expert = x.view(n_experts, -1, x.shape[-1])
    first, up = torch.bmm(by_expert, module.gate_up_proj).chunk(2, dim=-1)
    gate = module.act_fn(first)
    h = up * gate  # (n_experts, tokens, d_ff)
    expert = (by_expert != 0).any(-1).float().topk(top_k, dim=0).indices.flatten()
    token = torch.arange(h.shape[1], device=h.device).repeat(top_k)
    routing = Routing(
        token=token, expert=expert, weight=h.new_ones(len(token)), n_tokens=h.shape[1], n_experts=n_experts
    )
    rows = h[expert, token]
    # a tap may also change its rows in place
    h[expert, token] = see(gate[expert, token] if see.gate else rows, rows, routing)
    y = torch.bmm(h, module.down_proj)
    return y.view(-1, x.shape[-1]), y.sum(0)
