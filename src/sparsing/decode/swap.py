"""Reversible surgery on a model: modules with another `forward`, parameters in other memory, hooks.

`undo` gives both back: the same forward, the same values in the same strides, no attribute left behind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import nn

_FORWARD = "forward"


class Swap:
    """Remembers what it changed, in order."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []

    def forward(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        """Let `module` answer calls by `forward`; its hooks go on firing around it."""
        own = vars(module).get(_FORWARD)  # other libraries hang theirs here too

        def back() -> None:
            if own is None:
                vars(module).pop(_FORWARD, None)
            else:
                vars(module)[_FORWARD] = own

        vars(module)[_FORWARD] = forward
        self._undo.append(back)

    def memory(self, parameter: torch.Tensor, data: torch.Tensor) -> None:
        """Let `parameter` live in `data`, which holds its values; its old memory is released."""
        strides = parameter.stride()

        def back() -> None:
            own = torch.empty_strided(data.shape, strides, dtype=data.dtype, device=data.device)
            parameter.data = own.copy_(data)

        parameter.data = data
        self._undo.append(back)

    def later(self, back: Callable[[], object]) -> None:
        """Call `back` on `undo`."""
        self._undo.append(back)

    def undo(self) -> None:
        """Take every change back, the last one first; a second call does nothing."""
        while self._undo:
            self._undo.pop()()
