"""`Site`: one place in a model where a vector of neurons meets a matrix that could be read in part.

If a neuron is zero, its column of the matrix need not be read. At present every site is a feed-forward block: its
neurons are the entries of `h`, the input of `down_proj`. `discovery.py` finds the sites of a model, and `tap.py` reads
and changes them while the model runs.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal, cast

if TYPE_CHECKING:
    import torch
    from torch import nn

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
    """The projection whose input is `h`: an `nn.Linear` or a `Conv1D`. It runs once per forward of the block."""
    gate_act: nn.Module | None = None
    """The activation module whose output is `gate`, used by this block alone; None if `gate` is `h`."""
    transposed: bool = False
    """True if `down_proj.weight` is stored `(d_ff, d_model)`, as in `Conv1D`."""
    projections: tuple[nn.Module, ...] = ()
    """The `nn.Linear`s whose stacked weights are the rows of `gate_proj` and then of `up_proj`.

    There are two of them, or one if the family fuses both. The tuple is empty if the block has no gate."""

    @property
    def weight(self) -> torch.Tensor:
        """`W` of `y = h @ W.T`, shape `(d_model, d_ff)`, a view of the module's own parameter."""
        weight = cast("torch.Tensor", self.down_proj.weight)
        return weight.T if self.transposed else weight

    @property
    def bias(self) -> torch.Tensor | None:
        """Bias of `down_proj`, shape `(d_model,)`. It belongs to no neuron, so no metric counts it."""
        return cast("torch.Tensor | None", self.down_proj.bias)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.weight.shape[0]

    @property
    def d_ff(self) -> int:
        """Number of neurons."""
        return self.weight.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the site computes; totals of the site are kept there."""
        return self.weight.device

    def column_norms(self) -> torch.Tensor:
        """`||W[:, i]||_2` per neuron, shape `(d_ff,)`, float32."""
        weight = cast(
            "Any", self.weight.detach().float()
        )  # PyTorch does not annotate the parameters of `norm`
        return weight.norm(dim=0)
