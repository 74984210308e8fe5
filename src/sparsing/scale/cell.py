"""`Cell`: one run of a sweep, i.e. a few commands that write into one folder, and the record of how the run ended."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path

from sparsing.base.checked_files import quietly
from sparsing.base.results import Result

DONE, FAILED, OUT_OF_MEMORY, CRASHED = "done", "failed", "out of memory", "crashed"
"""How an attempt ended. `CRASHED`: the worker process or its node died, so the cell itself is not to blame."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a sweep."""

    name: str
    """Short and unique, e.g. `SmolLM2-135M.wikitext.cett`."""
    labels: dict[str, str]
    """What distinguishes the cell, e.g. `{"model": ..., "text": ..., "rule": ...}`; columns of the table of all."""
    folder: Path
    """Where the commands write."""
    commands: tuple[tuple[str, ...], ...]
    """Programs with their arguments, which run one after the other."""
    needs: tuple[str, ...] = ()
    """Names of cells that must be done before."""
    cpus: float = 1
    gpus: float = 0
    memory_gb: float | None = None
    """Memory that the cell may use; more after it ran out of memory. None sets no limit."""
    inputs: tuple[Path, ...] = ()
    """Files and folders that the cell reads; when they change, it is another cell."""

    @property
    def identity(self) -> str:
        """SHA-256 of the commands and of names, sizes and times of the files that they read."""
        seen = [[str(file), *_stamp(file)] for path in self.inputs for file in _files(path)]
        return hashlib.sha256(json.dumps([self.commands, seen]).encode()).hexdigest()

    @property
    def record_file(self) -> Path:
        return self.folder / "cell.json"

    @property
    def log_file(self) -> Path:
        """What the commands print, of all attempts."""
        return self.folder / "cell.log"

    def finished(self) -> CellRecord | None:
        """The record of the cell if an earlier run has finished it, else None."""
        record = quietly(lambda: CellRecord.load(self.record_file)) if self.record_file.exists() else None
        return record if record and record.outcome == DONE and record.identity == self.identity else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class CellRecord(Result):
    """How a cell ended. It is written once, by the process that ran the cell, when the cell is done."""

    kind = "sweep_cell"

    name: str
    labels: dict[str, str]
    identity: str
    outcome: str
    """`DONE`, `FAILED` or `OUT_OF_MEMORY`."""
    attempts: int
    """Runs of the cell in this call of the command, crashes of workers included."""
    wall_sec: float
    """Time of the last attempt."""
    host: str
    message: str = ""
    """Last lines that a failed cell printed."""


def _files(path: Path) -> list[Path]:
    """The file, or the files in the folder and its subfolders; hidden files are no part of a text or a checkpoint."""
    if not path.is_dir():
        return [path] if path.exists() else []
    found: list[Path] = []
    for folder, below, names in os.walk(path):
        below[:] = [name for name in below if not name.startswith(".")]
        found += [Path(folder, name) for name in names if not name.startswith(".")]
    return sorted(file for file in found if file.is_file())  # a link may lead nowhere


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns
