"""Copies of weights on huge pages, on which rows that are read in no order miss the address cache (TLB) less often.

Linux gives 2 MiB pages to memory that asks for them. On other systems the copies are ordinary ones.
"""

from __future__ import annotations

import dataclasses
import mmap
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from sparsing.decode.kernels.packing import PackedFFN

PAGE = 2 << 20
"""Bytes of a huge page."""


def copy_to_huge_pages(tensor: torch.Tensor) -> torch.Tensor:
    """A C-contiguous copy, on huge pages if the system has them and the tensor fills at least one."""
    size = tensor.numel() * tensor.element_size()
    if not hasattr(mmap, "MADV_HUGEPAGE") or size < PAGE:
        return tensor.contiguous().clone()
    # one page more than needed, since the mapping may start anywhere and the copy has to start on a huge page
    mapping = mmap.mmap(-1, -(-size // PAGE) * PAGE + PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mapping.madvise(mmap.MADV_HUGEPAGE)
    raw = torch.frombuffer(mapping, dtype=torch.uint8)  # holds a reference to the mapping
    start = -raw.data_ptr() % PAGE
    copy = raw[start : start + size].view(tensor.dtype).view(tensor.shape)
    return copy.copy_(tensor)


def move_to_huge_pages(packed: PackedFFN, *, fused: bool) -> PackedFFN:
    """The block with its weights copied to huge pages; unchanged if it is not on a CPU.

    Args:
        fused: True if `gate` and `up` are views of one parameter. They then stay where they are: two separate copies
            could not take that parameter's place, and the weights would be in memory twice.
    """
    if packed.gate.device.type != "cpu":
        return packed
    names = ("down",) if fused else ("gate", "up", "down")
    return dataclasses.replace(packed, **{name: copy_to_huge_pages(getattr(packed, name)) for name in names})
