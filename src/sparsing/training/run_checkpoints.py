"""The checkpoints of a run folder: which are complete, which one to resume from, and which files older ones lose.

A checkpoint is a folder `checkpoint-<step>` that `sparsing measure` loads. `training_state.json` is written last, so a
folder with it is complete. Only the newest checkpoint keeps the state of the optimizer and of the random generators.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from sparsing.base.results import write_text

STATE_FILE = "training_state.json"
_RESUME_ONLY = ("optimizer*", "scheduler.pt", "scaler.pt", "rng_state*.pth", "trainer_state.json")


def complete_checkpoints(run: str | Path) -> list[Path]:
    """The complete checkpoints of a run, in the order of training."""
    return [folder for folder in _folders(Path(run)) if (folder / STATE_FILE).exists()]


def mark_complete(folder: Path, step: int, tokens: int) -> None:
    """Write the training state of a checkpoint, which marks it as complete."""
    write_text(folder / STATE_FILE, json.dumps({"step": step, "tokens": tokens}) + "\n")


def find_resumable(run: Path) -> Path | None:
    """The last complete checkpoint with an optimizer state; None if the run starts from the beginning."""
    resumable = [folder for folder in complete_checkpoints(run) if any(folder.glob("optimizer*"))]
    return resumable[-1] if resumable else None


def remove_incomplete(run: Path) -> None:
    """Remove the checkpoints that a killed run has left half-written."""
    for folder in _folders(run):
        if not (folder / STATE_FILE).exists():
            shutil.rmtree(folder)


def prune_checkpoints(run: Path, kept: tuple[int, ...]) -> None:
    """Remove older checkpoints whose step is not in `kept`, and the optimizer state of the other older ones."""
    for folder in complete_checkpoints(run)[:-1]:
        if step_of(folder) not in kept:
            # without its mark a folder that is only partly removed counts as incomplete
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
