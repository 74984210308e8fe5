"""`Site`: one place in a model where a vector of neurons meets a matrix that could be read in part.

If a neuron is zero, its column of the matrix need not be read. A site is a feed-forward block, whose neurons are the
entries of `h`, the input of `down_proj`, or all routed experts of one layer, each with `d_ff` neurons, or the input `x`
of any linear of a layer, whose neurons are the entries of `x` and whose linear takes the place of `down_proj`.
`discovery.py` finds the feed-forward blocks of a model, `families/linear_inputs.py` finds the linear inputs, and
`tap.py` reads and changes both while the model runs.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal, cast

from sparsing.sites.effective_weight import (
    device_of,
    expert_weight,
    features_of,
    is_plain,
    projection_bias,
    weight_of,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

    from sparsing.sites.routed import RunExperts

SiteKind = Literal["ffn", "expert", "linear_input"]
"""What the neurons of a site are: those of a feed-forward block, of a routed expert, or the inputs of a linear."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Site:
    """The feed-forward block of one layer: `y = down_proj(h)`, with `h = gate * up` or `h = act(up)`."""

    name: str
    """Module path of `down_proj`, e.g. `model.layers.3.mlp.down_proj`; the key of thresholds and results."""
    layer: int
    """Number of the layer, as the model counts its layers."""
    block: str
    """Module path of the block, e.g. `model.layers.3.mlp`."""
    kind: SiteKind = "ffn"
    """What the neurons of the site are. A score declares the kinds of site on which it is defined."""
    down_proj: nn.Module
    """The projection whose input is `h`: an `nn.Linear` or a `Conv1D`. It runs once per forward of the block.

    If the kind is `expert`, the module whose parameter `down_proj` holds the matrices of all experts of the layer."""
    gate_act: nn.Module | None = None
    """The activation whose output is `gate`, used by this block alone or with `gate_proj`; None if `gate` is `h`."""
    gate_proj: nn.Module | None = None
    """The projection whose output enters `gate_act`, if a hook on `gate_act` would not see the gate.

    This is so if the code of the block calls the activation as a function, or if blocks share one activation module."""
    gate_half: int | None = None
    """Half of the output of `gate_proj` that enters `gate_act`, 0 or 1; None if all of it does."""
    transposed: bool = False
    """True if `down_proj.weight` is stored `(d_ff, d_model)`, as in `Conv1D`."""
    projections: tuple[nn.Module, ...] = ()
    """The `nn.Linear`s whose stacked weights are the rows of `gate_proj` and then of `up_proj`.

    There are two of them, or one if the family fuses both. The tuple is empty if the block has no gate."""
    n_experts: int = 1
    """Routed experts of the layer; 1 if the kind is not `expert`."""
    top_k: int = 1
    """Experts that each token is routed to; 1 if the kind is not `expert`."""
    moe_block: nn.Module | None = None
    """The block that adds up routed and shared experts; None if the kind is not `expert`."""
    run_experts: RunExperts | None = None
    """Computes the experts and taps their rows; None if the kind is not `expert`."""
    in_block: bool = True
    """False for a linear input that belongs to no feed-forward block, e.g. that of `q_proj`."""

    @property
    def weight(self) -> torch.Tensor:
        """`W` of `y = h @ W.T`, shape `(d_model, d_ff)`: the matrix that runs, with the adapters that act on it.

        A view of the module's own parameter, or computed anew if there is no such parameter. If the kind is `expert`,
        one `W` per expert, shape `(n_experts, d_model, d_ff)`."""
        if self.kind == "expert":
            weight = expert_weight(self.down_proj, self.name)
        elif is_plain(self.down_proj):
            weight = cast("torch.Tensor", self.down_proj.weight)
        else:
            return weight_of(self.down_proj, self.name)
        return weight.mT if self.transposed else weight

    @property
    def bias(self) -> torch.Tensor | None:
        """Bias of `down_proj`, shape `(d_model,)`, or `(n_experts, d_model)` if the kind is `expert`.

        It belongs to no neuron, so no metric counts it."""
        if self.kind == "expert":
            return cast("torch.Tensor | None", getattr(self.down_proj, "down_proj_bias", None))
        return projection_bias(self.down_proj)

    @property
    def d_model(self) -> int:
        """Width of the output."""
        return self._shape[0]

    @property
    def d_ff(self) -> int:
        """Number of neurons of the block, or of each expert."""
        return self._shape[1]

    @property
    def _shape(self) -> tuple[int, int]:
        if self.kind != "expert":
            return features_of(self.down_proj, self.name)
        rows, columns = cast("torch.Tensor", self.down_proj.down_proj).shape[1:]
        return (columns, rows) if self.transposed else (rows, columns)

    @property
    def n_neurons(self) -> int:
        """Number of neurons of the site. Neuron `i` of expert `e` has the number `e * d_ff + i`."""
        return self.n_experts * self.d_ff

    @property
    def width(self) -> int:
        """Number of neurons that each token passes: `d_ff`, or `top_k * d_ff` of `n_experts * d_ff` neurons."""
        return self.top_k * self.d_ff

    @property
    def gate_source(self) -> nn.Module | None:
        """The module after which `gate` is known, by `gate_after`; None if `gate` is `h`."""
        return self.gate_act if self.gate_proj is None else self.gate_proj

    def gate_after(self, output: torch.Tensor) -> torch.Tensor:
        """`gate`, shape `(..., d_ff)`, from the output of `gate_source`."""
        if self.gate_proj is None or self.gate_act is None:
            return output
        return self.gate_act(output if self.gate_half is None else output.chunk(2, dim=-1)[self.gate_half])

    def pre_gate_of(self, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        """The input of the activation, shape `(..., d_ff)`, from the inputs and the output of `gate_source`."""
        if self.gate_proj is None:
            return inputs[0]
        return output if self.gate_half is None else output.chunk(2, dim=-1)[self.gate_half]

    @property
    def device(self) -> torch.device:
        """Where the site computes; totals of the site are kept there."""
        return device_of(self.down_proj)

    def column_norms(self) -> torch.Tensor:
        """`||W[:, i]||_2` per neuron, shape `(d_ff,)` or `(n_experts, d_ff)`, float32."""
        weight = cast(
            "Any", self.weight.detach().float()
        )  # PyTorch does not annotate the parameters of `norm`
        return weight.norm(dim=-2)
