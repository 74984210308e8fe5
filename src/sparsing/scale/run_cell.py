"""Runs the commands of one cell in child processes, with a log, and says how they ended."""

from __future__ import annotations

import dataclasses
import os
import re
import socket
import subprocess
import time
from pathlib import Path

from sparsing.scale.bounded_child import bounded_command
from sparsing.scale.cell import DONE, FAILED, OUT_OF_MEMORY, Cell, CellRecord

_SIGKILL = -9
"""The system kills a process that takes the last memory by this signal."""
_NO_MEMORY = re.compile(
    r"out of memory|not enough memory|(can't|cannot) allocate memory|MemoryError|bad_alloc"
    r"|does not fit into the memory",  # a pass of this package (`passes.py`)
    re.I,
)
_NO_DEVICE_MEMORY = re.compile(
    r"(cuda|hip|xpu|mps)\b.* out of memory|into the memory of (cuda|xpu|mps)", re.I
)
"""A GPU has no more memory in the next attempt either."""
_LAST_LINES = 5


def run_cell(cell: Cell, attempt: int, workdir: Path) -> CellRecord:
    """Runs the cell, writes its record if it is done, and returns the record.

    A cell that is done already is not run again: the process that counted the attempts may have missed the end.

    Args:
        attempt: Number of this attempt, from 1.
        workdir: Folder that relative paths of the commands start from.
    """
    os.chdir(workdir)
    if record := cell.finished():
        return record
    began = time.monotonic()
    cell.folder.mkdir(parents=True, exist_ok=True)
    outcome, message = DONE, ""
    for command in cell.commands:
        status, printed = _run(cell, command, attempt)
        if status:
            outcome = OUT_OF_MEMORY if status == _SIGKILL or lacks_memory(printed) else FAILED
            message = "\n".join(printed.strip().splitlines()[-_LAST_LINES:]) or f"exit status {status}"
            break
    record = CellRecord(
        name=cell.name,
        labels=cell.labels,
        identity=cell.identity,
        outcome=outcome,
        attempts=attempt,
        wall_sec=time.monotonic() - began,
        host=socket.gethostname(),
        message=message,
    )
    if outcome == DONE:
        record.save(cell.record_file)
    return record


def lacks_memory(printed: str) -> bool:
    """Whether a program that failed printed that the memory of the machine did not suffice."""
    return bool(_NO_MEMORY.search(printed)) and not _NO_DEVICE_MEMORY.search(printed)


def _run(cell: Cell, command: tuple[str, ...], attempt: int) -> tuple[int, str]:
    """Exit status of a command, negative for a signal, and what it printed."""
    threads = str(max(1, int(cell.cpus)))
    environment = os.environ | {"OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads}
    with cell.log_file.open("ab") as log:
        log.write(f"--- attempt {attempt}: {' '.join(command)}\n".encode(errors="backslashreplace"))
        log.flush()
        began = log.tell()
        status = subprocess.run(
            bounded_command(command, cell.memory_gb if not cell.gpus else None),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            check=False,
        ).returncode
    return status, _read_from(cell.log_file, began)


def _read_from(path: Path, position: int) -> str:
    with path.open("rb") as handle:
        handle.seek(position)
        return handle.read().decode(errors="backslashreplace")


def with_more_memory(cell: Cell, most_gb: float) -> Cell | None:
    """The cell with twice the memory, at most `most_gb`; None if it has so much already.

    A cell without a limit gets all of it, so that it shares its node with no other cell.
    """
    if cell.memory_gb is not None and cell.memory_gb >= most_gb:
        return None
    return dataclasses.replace(cell, memory_gb=min(2 * (cell.memory_gb or most_gb), most_gb))
