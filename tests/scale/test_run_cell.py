"""Tests of one cell: how it ends, its record, its limits."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from sparsing.errors import InputError
from sparsing.measuring import passes
from sparsing.scale.cell import DONE, FAILED, OUT_OF_MEMORY, Cell, CellRecord
from sparsing.scale.run_cell import lacks_memory, run_cell, with_more_memory

ALLOCATE = "data = bytearray(600_000_000); print('has it')"


def make_cell(folder: Path, *programs: str, **options) -> Cell:
    commands = tuple((sys.executable, "-c", program) for program in programs)
    return Cell(name="cell", labels={"model": "m"}, folder=folder / "cell", commands=commands, **options)


def run(cell: Cell, attempt: int = 1) -> CellRecord:
    return run_cell(cell, attempt, Path.cwd())


def test_a_cell_that_is_done_has_a_record_and_is_not_run_again(tmp_path: Path):
    cell = make_cell(tmp_path, f"open({str(tmp_path / 'runs')!r}, 'a').write('x')", "print('second')")
    record = run(cell)
    assert record.outcome == DONE
    assert cell.finished() == record
    assert run(cell, 2) == record
    assert (tmp_path / "runs").read_text() == "x"
    assert "second" in cell.log_file.read_text()


def test_a_cell_that_fails_stops_and_keeps_its_last_lines(tmp_path: Path):
    cell = make_cell(tmp_path, "import sys; sys.exit('it does not work')", "print('never')")
    record = run(cell)
    assert (record.outcome, record.message) == (FAILED, "it does not work")
    assert cell.finished() is None
    assert "never" not in cell.log_file.read_text().split("---")[-1].partition("\n")[2]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not enforce RLIMIT_DATA")
def test_memory_is_limited_and_a_lack_of_it_is_recognised(tmp_path: Path):
    cell = make_cell(tmp_path, ALLOCATE, memory_gb=0.4)
    assert run(cell).outcome == OUT_OF_MEMORY
    more = with_more_memory(cell, 100)
    assert more is not None
    assert more.memory_gb == 0.8
    assert run(more).outcome == DONE


def test_more_memory_ends_at_the_largest_node(tmp_path: Path):
    cell = make_cell(tmp_path, memory_gb=3)
    larger = with_more_memory(cell, 4)
    assert larger is not None
    assert larger.memory_gb == 4
    assert with_more_memory(larger, 4) is None
    alone = with_more_memory(make_cell(tmp_path), 4)
    assert alone is not None
    assert alone.memory_gb == 4
    assert with_more_memory(alone, 4) is None


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
def test_the_programs_of_a_cell_die_with_its_process(tmp_path: Path):
    program = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    code = (
        "import sys, os; from pathlib import Path; from sparsing.scale.cell import Cell;"
        "from sparsing.scale.run_cell import run_cell;"
        f"run_cell(Cell(name='c', labels={{}}, folder=Path({str(tmp_path)!r}),"
        f" commands=((sys.executable, '-c', {program!r}),)), 1, Path.cwd())"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()):
        assert parent.poll() is None
        time.sleep(0.05)
    child = psutil.Process(int((tmp_path / "pid").read_text()))
    parent.kill()
    parent.wait()
    child.wait(timeout=10)


def test_a_damaged_record_counts_as_none(tmp_path: Path):
    cell = make_cell(tmp_path, "pass")
    run(cell)
    cell.record_file.write_text("{")
    assert cell.finished() is None
    assert run(cell).outcome == DONE


@pytest.mark.parametrize(
    ("printed", "lacks"),
    [
        ("OSError: [Errno 12] Cannot allocate memory", True),
        ("RuntimeError: unable to mmap 1234 bytes from file </model>: Cannot allocate memory (12)", True),
        (
            "RuntimeError: [enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory",
            True,
        ),
        # more memory of the machine does not help a GPU
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", False),
        ("error: no such model", False),
    ],
)
def test_a_lack_of_memory_is_recognised_by_its_message(printed: str, lacks: bool):
    assert lacks_memory(printed) == lacks


@pytest.mark.parametrize(("device", "lacks"), [("cpu", True), ("cuda:0", False)])
def test_a_window_that_does_not_fit_is_a_lack_of_memory(device: str, lacks: bool):
    """The passes of this package turn the exception of PyTorch into an error of their own."""
    corpus = SimpleNamespace(width=128)
    with pytest.raises(InputError) as error:
        passes._smaller(1, corpus, torch.device(device))  # type: ignore[arg-type]
    assert lacks_memory(f"error: {error.value}") == lacks


def test_a_changed_file_in_a_subfolder_makes_another_cell(tmp_path: Path):
    (tmp_path / "text" / "part").mkdir(parents=True)
    cell = make_cell(tmp_path, "pass", inputs=(tmp_path / "text",))
    (tmp_path / "text" / "part" / "a.txt").write_text("one text")
    before = cell.identity
    (tmp_path / "text" / ".hidden").write_text("no text")
    (tmp_path / "text" / "link").symlink_to(tmp_path / "nowhere")
    assert cell.identity == before
    (tmp_path / "text" / "part" / "a.txt").write_text("another text")
    assert cell.identity != before
