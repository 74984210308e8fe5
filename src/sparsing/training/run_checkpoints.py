"""The checkpoints of a run folder: finds complete checkpoints, and deletes incomplete and old checkpoints.

A checkpoint is a folder `checkpoint-<step>` that `sparsing measure` can load. `training_state.json` is written last, so
a checkpoint that contains this file is complete. Only the newest checkpoint keeps the files that are needed to resume
training, such as the states of the optimizer and of the random generators.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from sparsing.base.checked_files import check, read_object
from sparsing.base.results import write_text
from sparsing.errors import InputError
from sparsing.models.identity import digest_file

STATE_FILE = "training_state.json"
_RESUME_ONLY = ("optimizer*", "scheduler.pt", "scaler.pt", "rng_state*.pth", "trainer_state.json")
"""Glob patterns of the files that are needed only to resume training."""


def complete_checkpoints(run: str | Path) -> list[Path]:
    """The complete checkpoints of a run, in the order of training."""
    return [folder for folder in _folders(Path(run)) if (folder / STATE_FILE).exists()]


def mark_complete(folder: Path, step: int, tokens: int, phase: str | None) -> None:
    """Write `training_state.json`, which marks the checkpoint as complete and has the digests of all files in it.

    Args:
        phase: Phase of the learning rate, see `StepSchedule.phase`; None if it is not known.
    """
    files = {path.relative_to(folder).as_posix(): digest_file(path) for path in _files(folder)}
    document = {"step": step, "tokens": tokens, "phase": phase, "files": files}
    write_text(folder / STATE_FILE, json.dumps(document, indent=1) + "\n")


def check_resumable(folder: Path) -> None:
    """Check that every file of a checkpoint is as it was written, so that training continues with the same bits.

    Raises:
        InputError: if a file is missing or has changed.
    """
    hint = "restore the file, or delete the folder of the checkpoint, after which training starts from the beginning"
    document = read_object(folder / STATE_FILE, hint=hint)
    files = check(document.get("files", {}), dict[str, str], name=str(folder / STATE_FILE), hint=hint)
    for name, digest in files.items():
        path = folder / name
        if not path.is_file() or digest_file(path) != digest:
            state = "has changed since it was written" if path.is_file() else "is missing"
            raise InputError(f"training cannot continue from {str(folder)!r}: {name} {state}; {hint}")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != STATE_FILE)


def find_resumable(run: Path) -> Path | None:
    """The newest complete checkpoint with an optimizer state; None if training must start from the beginning."""
    resumable = [folder for folder in complete_checkpoints(run) if any(folder.glob("optimizer*"))]
    return resumable[-1] if resumable else None


def remove_incomplete(run: Path) -> None:
    """Delete incomplete checkpoints, which a run leaves behind if it is killed while it saves."""
    for folder in _folders(run):
        if not (folder / STATE_FILE).exists():
            shutil.rmtree(folder)


def prune_checkpoints(run: Path, kept: tuple[int, ...]) -> None:
    """Delete old checkpoints, or their files for resuming; the newest complete checkpoint stays whole.

    Args:
        kept: Steps whose checkpoints are kept. They lose only the files that are needed to resume training.
    """
    for folder in complete_checkpoints(run)[:-1]:
        if step_of(folder) not in kept:
            # deleted first, so that a folder whose deletion is interrupted counts as incomplete
            (folder / STATE_FILE).unlink()
            shutil.rmtree(folder)
            continue
        for pattern in _RESUME_ONLY:
            for path in folder.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def step_of(folder: Path) -> int:
    """Training step of a checkpoint folder, from its name."""
    return int(folder.name.rpartition("-")[2])


def _folders(run: Path) -> list[Path]:
    folders = [path for path in run.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(folders, key=step_of)
