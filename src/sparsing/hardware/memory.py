"""`free_memory`: bytes of memory that this process can take without swapping, also inside a container."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_GROUPS, _OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))
_VERSION_2 = ("memory.max", "memory.current", ("inactive_file", "active_file"))
"""Files with the limit and the memory in use, and the parts of `memory.stat` that the kernel frees when needed."""


def free_memory(groups: Path = _GROUPS, own: Path = _OWN) -> int:
    """Bytes that are free in the machine, at most as many as the control groups of this process have left.

    It needs the extra `engine`.

    Args:
        groups: Where the control groups are mounted. In a container its own group lies at the top.
        own: Lists the groups of this process. A group has at most what the groups around it have.
    """
    import psutil

    free = psutil.virtual_memory().available
    for folder, (limit, used, cached) in _own_groups(groups, own):
        try:
            words = (folder / "memory.stat").read_text(encoding="ascii").split()
            left = int((folder / limit).read_text(encoding="ascii"))  # version 2 writes "max" for no limit
            left -= int((folder / used).read_text(encoding="ascii"))
            left += sum(int(words[words.index(name) + 1]) for name in cached)
        except (OSError, ValueError):
            continue
        free = min(free, max(left, 0))
    return free


def _own_groups(groups: Path, own: Path) -> Iterator[tuple[Path, tuple[str, str, tuple[str, ...]]]]:
    """The folders of the groups of this process and of the groups around them, with the names of their files."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = ["0::/", "1:memory:/"]
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = groups / "memory" if controllers else groups
        path = PurePosixPath(name.lstrip("/"))
        for one in (path, *path.parents):
            yield top / one, _VERSION_1 if controllers else _VERSION_2
