"""The checkpoints of a run folder: which are whole, which to go on from, what the older ones may lose.

A checkpoint is a folder `checkpoint-<step>` that `sparsing measure` loads. `training_state.json` is written last
and marks it whole. Optimizer and random state are kept in the newest one only.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from sparsing.base.results import write_text

MARK = "training_state.json"
_RESUME_ONLY = ("optimizer*", "scheduler.pt", "scaler.pt", "rng_state*.pth", "trainer_state.json")


def complete_checkpoints(run: str | Path) -> list[Path]:
    """The whole checkpoints of a run, in the order of training."""
    return [folder for folder in _folders(Path(run)) if (folder / MARK).exists()]


def mark_complete(folder: Path, step: int, tokens: int) -> None:
    """Say how far training had come; a folder without this is left from a run that was cut off in saving."""
    write_text(folder / MARK, json.dumps({"step": step, "tokens": tokens}) + "\n")


def find_resumable(run: Path) -> Path | None:
    """The last whole checkpoint with what is needed to go on; None for a run that begins."""
    able = [folder for folder in complete_checkpoints(run) if any(folder.glob("optimizer*"))]
    return able[-1] if able else None


def remove_incomplete(run: Path) -> None:
    """Remove folders that a killed run has left half-written."""
    for folder in _folders(run):
        if not (folder / MARK).exists():
            shutil.rmtree(folder)


def prune_checkpoints(run: Path, kept: tuple[int, ...]) -> None:
    """Before the newest checkpoint: remove folders that are not to be kept, and the optimizer of those that are."""
    for folder in complete_checkpoints(run)[:-1]:
        if step_of(folder) not in kept:
            (folder / MARK).unlink()  # so that a kill in the middle leaves it broken, not wrong
            shutil.rmtree(folder)
            continue
        for pattern in _RESUME_ONLY:
            for path in folder.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _folders(run: Path) -> list[Path]:
    found = [path for path in run.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=step_of)


def step_of(folder: Path) -> int:
    """Training step of a checkpoint folder."""
    return int(folder.name.rpartition("-")[2])
