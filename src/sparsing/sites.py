"""One view of every feed-forward block: where its `gate`, its `h` and its `down_proj` are.

`families/` holds one file per shape of block; each registers the model types it knows. Nothing else in the
package knows a model class.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sparsing.errors import UnsupportedModelError
from sparsing.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class FFNSite:
    """A feed-forward block of one layer: `y = down_proj(h)`, with `h = gate * up` or `h = act(up)`."""

    name: str
    """Dotted path of the block in the model, e.g. `model.layers.3.mlp`."""
    down_proj: nn.Module
    """The projection whose input is `h`: an `nn.Linear` or a `Conv1D`. Called once per forward."""
    gate_act: nn.Module | None = None
    """The activation module whose output is `gate`, of this block alone; None where `gate` is `h`."""
    transposed: bool = False
    """True when `down_proj.weight` is stored `(d_ff, d_model)`, as in `Conv1D`."""

    @property
    def weight(self) -> torch.Tensor:
        """`W` of `y = h @ W.T`, shape `(d_model, d_ff)`, a view of the module's own parameter."""
        weight: torch.Tensor = self.down_proj.weight  # pyright: ignore[reportAssignmentType]
        return weight.T if self.transposed else weight

    @property
    def d_model(self) -> int:
        return self.weight.shape[0]

    @property
    def d_ff(self) -> int:
        return self.weight.shape[1]

    def column_norms(self) -> torch.Tensor:
        """`||W[:, i]||_2` per neuron, shape `(d_ff,)`, float32."""
        return self.weight.detach().float().norm(dim=0)


FAMILIES: Registry[Callable[[nn.Module], list[FFNSite]]] = Registry("model type")


def register_family(*model_types: str) -> Callable[[Callable], Callable]:
    """Announce a function that finds the sites of these `config.model_type`s, in layer order."""

    def register(sites: Callable[[nn.Module], list[FFNSite]]) -> Callable[[nn.Module], list[FFNSite]]:
        for model_type in model_types:
            FAMILIES.register(model_type, sites)
        return sites

    return register
