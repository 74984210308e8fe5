"""Free memory, inside and outside of a container."""

from __future__ import annotations

import pytest

from sparsing.hardware.memory import free_memory

pytest.importorskip("psutil", reason="free memory needs the extra engine")


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("limit", "wanted"), [("5000", 5000 - 3000 + 700), ("1000", 0)])
def test_the_limit_of_the_control_group_counts(tmp_path, version, limit, wanted):
    """The kernel takes the cache of files back when a process needs memory."""
    if version == 2:
        (tmp_path / "memory.max").write_text(limit + "\n")
        (tmp_path / "memory.current").write_text("3000\n")
        (tmp_path / "memory.stat").write_text("anon 2000\ninactive_file 700\n")
    else:
        (tmp_path / "memory").mkdir()
        (tmp_path / "memory/memory.limit_in_bytes").write_text(limit + "\n")
        (tmp_path / "memory/memory.usage_in_bytes").write_text("3000\n")
        (tmp_path / "memory/memory.stat").write_text("inactive_file 1\ntotal_inactive_file 700\n")
    assert free_memory(tmp_path) == wanted


def test_without_a_limit_the_machine_counts(tmp_path):
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("3000\n")
    (tmp_path / "memory.stat").write_text("inactive_file 700\n")
    assert free_memory(tmp_path) > 2**20
    assert free_memory(tmp_path / "absent") > 2**20
