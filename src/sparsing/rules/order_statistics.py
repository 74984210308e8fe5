"""The largest entries of each row of scores: for the selections that rank the neurons of a token.

On a CPU NumPy partitions and sorts 5 to 50 times as fast as PyTorch, and integers twice as fast as floats, so the bits
of the floats are sorted as integers. On an accelerator nothing here waits for the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparsing.rules.flag_counts import count_over_neurons
from sparsing.rules.flags import as_array, as_tensor, at_least, on_cpu
from sparsing.rules.scores import is_above

if TYPE_CHECKING:
    import torch


def largest(size: torch.Tensor, kept: int, *, all_zeros: bool = False) -> torch.Tensor:
    """Exactly the `kept` largest entries of each row, bool; of equal entries those that come first.

    Args:
        all_zeros: True may keep further entries that are 0, for callers that drop zeros anyway. Rows with fewer than
            `kept` positive entries then take no longer than others.
    """
    width = size.shape[-1]
    if kept <= 0 or kept >= width:
        return is_above(size, float("-inf" if kept > 0 else "inf"))
    if on_cpu(size):
        keys = np.partition(_keys(as_array(size)), width - kept, axis=-1)
        smallest = as_tensor(_floats(keys[..., width - kept, None]))
    else:
        smallest = size.topk(kept, dim=-1, sorted=False).values.amin(-1, keepdim=True)
    return exactly(size, smallest, smallest.long().fill_(kept), all_zeros=all_zeros)


def rising(size: torch.Tensor) -> torch.Tensor:
    """The entries of each row in rising order."""
    if on_cpu(size):
        return as_tensor(_floats(np.sort(_keys(as_array(size)), axis=-1)))
    return size.sort(dim=-1).values


def exactly(
    size: torch.Tensor, smallest: torch.Tensor, kept: torch.Tensor, *, all_zeros: bool = False
) -> torch.Tensor:
    """The entries above `smallest`, and of the entries that equal it the first, `kept` of each row in total; bool.

    Half precision has many equal entries, so a comparison with the smallest kept one would keep too many.

    Args:
        size: Shape `(..., width)`.
        smallest: The smallest kept entry of each row, shape `(..., 1)`.
        kept: Number of kept entries of each row, same shape, int64.
        all_zeros: As in `largest`.
    """
    if not on_cpu(size):
        return _without_late_ties(size, smallest, kept)
    # a CPU may look at the result, since no accelerator has to wait: few rows have too many equal entries
    active = at_least(size, smallest)
    tied = count_over_neurons(active) != kept[..., 0]
    if all_zeros:
        tied &= smallest[..., 0] != 0
    if bool(tied.any()):
        active[tied] = _without_late_ties(size[tied], smallest[tied], kept[tied])
    return active


def _keys(floats: NDArray[Any]) -> NDArray[Any]:
    """Integers in the order of the floats; NaN is the largest. The integers of positive floats share their memory."""
    bits = floats.view(f"i{floats.itemsize}")
    return bits if bits.size == 0 or bits.min() >= 0 else _turned(bits)


def _floats(keys: NDArray[Any]) -> NDArray[Any]:
    """The inverse of `_keys`."""
    bits = keys if keys.size == 0 or keys.min() >= 0 else _turned(keys)
    return bits.view(f"f{bits.itemsize}")


def _turned(bits: NDArray[Any]) -> NDArray[Any]:
    """Negative integers in reverse order, since the bits of negative floats rise with their magnitude."""
    return bits ^ ((bits >> (8 * bits.itemsize - 1)) & np.iinfo(bits.dtype).max)


def _without_late_ties(size: torch.Tensor, smallest: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    above, tied = size > smallest, size == smallest
    wanted = kept - above.sum(-1, keepdim=True)  # of the tied ones
    return above | (tied & (tied.cumsum(-1) <= wanted))
