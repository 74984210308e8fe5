"""Copies of weights on huge pages, on which rows that are read in no order miss the address cache (TLB) less often.

Linux gives 2 MiB pages to memory that asks for them. On other systems the copies are ordinary ones.
"""

from __future__ import annotations

import dataclasses
import mmap
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from sparsing.decode.kernels.packing import PackedFFN

    Array = np.ndarray[Any, Any]

PAGE = 2 << 20
"""Bytes of a huge page."""
_LINE = 64
"""Bytes of a cache line."""


class HugePages:
    """Memory on huge pages that is handed out piece by piece, so that small pieces share a page.

    A page takes physical memory when it is first written, so a size above the need costs nothing.
    """

    def __init__(self, size: int):
        """Reserve `size` bytes; memory below one huge page is ordinary memory.

        Raises:
            OSError: If the system has no address space for this size.
        """
        if not hasattr(mmap, "MADV_HUGEPAGE") or size < PAGE:
            self._free: Array = np.empty(size + _LINE, np.uint8)
            self._align(_LINE)
            return
        # one page more than needed, since the mapping may start anywhere and the memory has to start on a huge page
        mapping = mmap.mmap(-1, -(-size // PAGE) * PAGE + PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        mapping.madvise(mmap.MADV_HUGEPAGE)
        self._free = np.frombuffer(mapping, np.uint8)  # holds a reference to the mapping
        self._align(PAGE)

    def take(self, size: int) -> Array:
        """The next `size` bytes, uint8; they start on a cache line."""
        taken, self._free = self._free[:size], self._free[size:]
        assert taken.size == size, "the reserved memory is too small"
        self._align(_LINE)
        return taken

    def _align(self, to: int) -> None:
        self._free = self._free[-self._free.ctypes.data % to :]


def copy_to_huge_pages(tensor: torch.Tensor) -> torch.Tensor:
    """A C-contiguous copy, on huge pages if the system has them and the tensor fills at least one."""
    size = tensor.numel() * tensor.element_size()
    raw = torch.from_numpy(HugePages(size).take(size))
    return raw.view(tensor.dtype).view(tensor.shape).copy_(tensor)


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
