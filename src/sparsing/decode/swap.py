"""Reversible changes of a model: modules with another `forward`, and parameters in other memory.

`Swap.undo` restores the model: the same forwards, the same values in the same strides, and no attribute left over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import nn

    from sparsing.decode.kernels.packing import PackedFFN
    from sparsing.sites.site import Site

_FORWARD = "forward"


class Swap:
    """Makes changes and remembers, in order, how to undo them."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []

    def replace_forward(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        """Let `module` compute by `forward`. Hooks of the module still run before and after."""
        own = vars(module).get(_FORWARD)  # another library may have set a forward on this instance

        def restore() -> None:
            if own is None:
                vars(module).pop(_FORWARD, None)
            else:
                vars(module)[_FORWARD] = own

        vars(module)[_FORWARD] = forward
        self._undo.append(restore)

    def move_parameter(self, parameter: torch.Tensor, data: torch.Tensor) -> None:
        """Let `parameter` use the memory of `data`, which holds the same values; its old memory is released."""
        strides = parameter.stride()

        def restore() -> None:
            own = torch.empty_strided(data.shape, strides, dtype=data.dtype, device=data.device)
            parameter.data = own.copy_(data)

        parameter.data = data
        self._undo.append(restore)

    def on_undo(self, restore: Callable[[], object]) -> None:
        """Call `restore` in `undo`."""
        self._undo.append(restore)

    def undo(self) -> None:
        """Undo all changes, the last one first. A second call does nothing."""
        while self._undo:
            self._undo.pop()()


def share_weights(swap: Swap, site: Site, packed: PackedFFN) -> None:
    """Turn the block's parameters into views of the packed weights, so that the weights are in memory once."""
    targets = [(site.down_proj, packed.down if site.transposed else packed.down.T)]
    if len(site.projections) == 2:  # a fused projection stays where it is, and the kernels read views of it
        targets += zip(site.projections, (packed.gate, packed.up), strict=True)
    for module, data in targets:
        weight = module.get_parameter("weight")
        if weight.data_ptr() != data.data_ptr():
            swap.move_parameter(weight, data)
