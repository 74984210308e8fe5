"""Flags of neurons: comparisons that give a boolean tensor, and products of values with flags.

The comparisons are those of PyTorch, bit for bit. On a CPU NumPy compares floats several times as fast as PyTorch, and
PyTorch multiplies by bytes several times as fast as by booleans. Nothing here waits for an accelerator.
PyTorch is imported by the functions, since a report loads the rules without it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

_FEWEST = 4096
"""Fewer entries than these are compared by PyTorch: a call of NumPy costs a few microseconds more."""


def on_cpu(values: torch.Tensor) -> bool:
    """Whether the host may look at the entries without waiting for an accelerator, and outside of a compiled graph."""
    import torch

    return values.device.type == "cpu" and not torch.compiler.is_compiling()


def above(size: torch.Tensor, limit: torch.Tensor | float) -> torch.Tensor:
    """`size > limit`, bool, of the shape to which both broadcast.

    Args:
        limit: A number, or a tensor that broadcasts with `size`.
    """
    return _compared(size, limit, operator.gt)


def at_least(size: torch.Tensor, limit: torch.Tensor | float) -> torch.Tensor:
    """`size >= limit`; as `above`."""
    return _compared(size, limit, operator.ge)


def nonzero(values: torch.Tensor) -> torch.Tensor:
    """`values != 0`, shape of `values`, bool; True for NaN."""
    return values.bool()


def kept(values: torch.Tensor, flags: torch.Tensor) -> torch.Tensor:
    """`values * flags`: the values with flags, and 0 elsewhere; shape and dtype of `values`."""
    import torch

    return values * flags.view(torch.uint8)


def as_array(values: torch.Tensor) -> NDArray[Any]:
    """The entries of a tensor on a CPU as an array that shares their memory. NumPy has no bfloat16."""
    return np.from_dlpack(values.detach())


def as_tensor(array: NDArray[Any]) -> torch.Tensor:
    """The entries of an array as a tensor that shares their memory."""
    import torch

    return cast("Any", torch).from_numpy(array)  # PyTorch does not annotate its parameter


def _compared(
    size: torch.Tensor, limit: torch.Tensor | float, compare: Callable[[Any, Any], Any]
) -> torch.Tensor:
    import torch

    if not on_cpu(size) or size.numel() < _FEWEST or size.dtype not in (torch.float32, torch.float64):
        return compare(size, limit)
    if not isinstance(limit, torch.Tensor):
        # PyTorch, too, rounds a number to the dtype of the tensor; numbers beyond its range become infinite
        with np.errstate(over="ignore"):
            return as_tensor(compare(as_array(size), as_array(size).dtype.type(limit)))
    if limit.dtype != size.dtype:
        return compare(size, limit)
    return as_tensor(compare(as_array(size), as_array(limit)))
