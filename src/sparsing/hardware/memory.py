"""`free_memory`: bytes of memory that this process can take without swapping, also inside a container."""

from __future__ import annotations

from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_VERSION_2 = ("memory.max", "memory.current", "memory.stat", "inactive_file")
_VERSION_1 = (
    *("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    *("memory/memory.stat", "total_inactive_file"),
)
"""Files of the limit, of the memory in use and of its parts, and the part that the kernel frees when it needs it."""


def free_memory(groups: Path = _GROUPS) -> int:
    """Bytes that are free in the machine, at most as many as the control group of this process has left.

    It needs the extra `engine`.

    Args:
        groups: Where the control groups are mounted. In a container its own group lies at the top.
    """
    import psutil

    free = psutil.virtual_memory().available
    for limit, used, stat, cached in (_VERSION_2, _VERSION_1):
        try:
            words = (groups / stat).read_text(encoding="ascii").split()
            left = int((groups / limit).read_text(encoding="ascii"))  # version 2 writes "max" for no limit
            left -= int((groups / used).read_text(encoding="ascii"))
            left += int(words[words.index(cached) + 1])
        except (OSError, ValueError):
            continue
        free = min(free, max(left, 0))
    return free
