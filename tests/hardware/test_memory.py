"""Free memory, inside and outside of a container."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsing.hardware.memory import free_memory

pytest.importorskip("psutil", reason="free memory needs the extra engine")

NAMES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    2: ("memory.max", "memory.current", ""),
}


def write_group(folder: Path, version: int, limit: str) -> None:
    """A group that uses 3,000 bytes, of which 900 are copies of files."""
    limits, used, prefix = NAMES[version]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / limits).write_text(f"{limit}\n")
    (folder / used).write_text("3000\n")
    (folder / "memory.stat").write_text(
        f"anon 2100\n{prefix}inactive_file 700\n{prefix}active_file 200\nshmem 0\n"
    )


def top_of(tmp_path: Path, version: int) -> tuple[Path, Path]:
    """The folder of the group at the top, and the list of the groups of the process."""
    own = tmp_path / "own"
    own.write_text("5:cpu,cpuacct:/other\n4:memory:/a/b\n" if version == 1 else "0::/a/b\n")
    return (tmp_path / "memory" if version == 1 else tmp_path), own


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("limit", "wanted"), [("5000", 5000 - 3000 + 900), ("1000", 0)])
def test_the_limit_of_the_group_counts(tmp_path, version, limit, wanted):
    """The kernel takes copies of files back when a process needs memory."""
    top, own = top_of(tmp_path, version)
    write_group(top, version, limit)
    assert free_memory(tmp_path, own) == wanted, "in a container the own group lies at the top"
    write_group(top, version, "9000")
    write_group(top / "a", version, limit)
    write_group(top / "a" / "b", version, "7000")
    assert free_memory(tmp_path, own) == wanted, "a group has at most what the group around it has"


def test_without_a_limit_the_machine_counts(tmp_path):
    top, own = top_of(tmp_path, 2)
    write_group(top, 2, "max")
    assert free_memory(tmp_path, own) > 2**20
    assert free_memory(tmp_path / "absent", tmp_path / "absent") > 2**20
    assert free_memory() > 2**20
