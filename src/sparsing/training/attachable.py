"""Base of training methods that put hooks on a model, such as `L1Penalty` and `FATReLU`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from sparsing.errors import InputError

if TYPE_CHECKING:
    from torch import nn


class Attachable:
    """Something that is attached to one model at a time and can be removed from it."""

    def __init__(self) -> None:
        self._handles: list[Any] = []

    @property
    def is_attached(self) -> bool:
        return bool(self._handles)

    def attach(self, model: nn.Module) -> Self:
        """Act on every forward pass of `model` until `remove()`.

        Raises:
            UnsupportedModelError: if the sites of the model are not found.
            InputError: if this object is attached already.
        """
        if self.is_attached:
            raise InputError(
                f"this {type(self).__name__} is attached already; call remove() first, or make another one"
            )
        self._handles = self._add_hooks(model)
        return self

    def remove(self) -> None:
        """Take the hooks off the model again."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _add_hooks(self, model: nn.Module) -> list[Any]:
        """Put the hooks on `model` and return their handles."""
        raise NotImplementedError
