"""Copies of weights on huge pages: rows taken here and there miss the address cache less often.

Linux hands out 2 MiB pages to memory that asks for them; elsewhere the copy is an ordinary one.
"""

from __future__ import annotations

import mmap

import torch

PAGE = 2 << 20


def on_huge_pages(tensor: torch.Tensor) -> torch.Tensor:
    """A C-contiguous copy, on huge pages where the system has them and the tensor fills at least one."""
    size = tensor.numel() * tensor.element_size()
    if not hasattr(mmap, "MADV_HUGEPAGE") or size < PAGE:
        return tensor.contiguous().clone()
    room = mmap.mmap(-1, -(-size // PAGE) * PAGE + PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    room.madvise(mmap.MADV_HUGEPAGE)
    raw = torch.frombuffer(room, dtype=torch.uint8)  # keeps the mapping alive
    start = -raw.data_ptr() % PAGE
    copy = raw[start : start + size].view(tensor.dtype).view(tensor.shape)
    return copy.copy_(tensor)
