"""Every kernel compiles. Triton's interpreter accepts code that its compiler rejects; compiling needs no GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="needs the extra gpu: pip install 'sparsing[gpu]'")

SCRIPT = Path(__file__).parent / "compile_kernels.py"


def compile_kernels(tmp_path: Path, *arguments: str) -> list[dict]:
    """Registers, stack, shared memory and narrow loads of every kernel of a block, for one kind of GPU."""
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-W", "error", str(SCRIPT), *arguments]
    return json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout)


def check(kernels: list[dict], shared_bytes: int) -> None:
    assert {kernel["kernel"] for kernel in kernels} == {
        "quantise",
        "gate_pass",
        "predict_pass",
        "hidden_pass",
        "down_pass",
        "add_parts",
    }
    for kernel in kernels:
        # the stack may hold some addresses, but no part of a tile, which would be a hundred bytes or more
        assert kernel["stack_bytes"] <= 64, f"registers spill: {kernel}"
        assert kernel["shared_bytes"] <= shared_bytes, kernel
        if kernel["kernel"] in ("gate_pass", "hidden_pass", "down_pass"):
            assert kernel["narrow_loads"] == 0, f"weights are read two bytes at a time: {kernel}"


@pytest.mark.slow
def test_kernels_compile_without_spills(tmp_path):
    check(compile_kernels(tmp_path, "90", "bfloat16", "4096", "14336"), shared_bytes=56 * 1024)


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["80", "89", "100"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_kernels_compile_for_other_gpus_and_shapes(tmp_path, capability, dtype):
    check(compile_kernels(tmp_path, capability, dtype, "2304", "5760"), shared_bytes=56 * 1024)
