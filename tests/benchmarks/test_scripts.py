"""Every benchmark script starts, and the benchmarks of the search run on little data and write their result file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sparsing.demo import checkpoints

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


@pytest.fixture
def copy(tmp_path):
    """A copy of the scripts, so that no result is written into the repository."""
    target = tmp_path / "benchmarks"
    shutil.copytree(FOLDER, target, ignore=shutil.ignore_patterns("results", ".cache", "__pycache__"))
    return target


def run(folder: Path, script: str, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", str(folder / f"{script}.py"), *args]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_starts(script, copy):
    done = run(copy, script, "--help")
    assert done.returncode == 0, done.stderr[-500:]
    assert "usage:" in done.stdout


@pytest.mark.slow
def test_the_cost_of_a_search(copy):
    done = run(
        copy, "search_cost", "--model", str(checkpoints("relu")[-1]), "--tokens", "4000", "--window", "128"
    )
    assert done.returncode == 0, done.stderr[-500:]
    (file,) = (copy / "results").glob("search_cost-*.json")
    rows = json.loads(file.read_text())["rows"]
    assert [len(row["levels"]) for row in rows.values()] == [1, 3]
    for row in rows.values():
        assert row["dense_equivalents"] > 1
        assert row["full_passes"] >= len(row["levels"])


@pytest.mark.slow
def test_the_search_on_simulated_curves(copy):
    done = run(copy, "interval_coverage", "search", "--runs", "2")
    assert done.returncode == 0, done.stderr[-500:]
    (file,) = (copy / "results").glob("interval_coverage-*.json")
    assert all(row["converged"] > 0 for row in json.loads(file.read_text())["search"])
