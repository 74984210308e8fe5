"""Checkpoint folders: which are complete, which are removed, and which files older ones lose."""

from __future__ import annotations

from pathlib import Path

from sparsing.training.run_checkpoints import (
    complete_checkpoints,
    find_resumable,
    mark_complete,
    prune_checkpoints,
    remove_incomplete,
)


def checkpoint(run: Path, step: int, *, complete: bool = True) -> Path:
    folder = run / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"):
        (folder / name).write_text("x", encoding="utf-8")
    if complete:
        mark_complete(folder, step, step * 10, "stable")
    return folder


def test_complete_checkpoints_come_in_the_order_of_training(tmp_path):
    for step in (20, 5, 100):
        checkpoint(tmp_path, step)
    checkpoint(tmp_path, 120, complete=False)
    (tmp_path / "checkpoint-best").mkdir()
    assert [folder.name for folder in complete_checkpoints(tmp_path)] == [
        "checkpoint-5",
        "checkpoint-20",
        "checkpoint-100",
    ]
    assert find_resumable(tmp_path) == tmp_path / "checkpoint-100"
    remove_incomplete(tmp_path)
    assert not (tmp_path / "checkpoint-120").exists()
    assert (tmp_path / "checkpoint-best").exists()


def test_older_checkpoints_lose_the_files_for_resuming(tmp_path):
    for step in (5, 10, 20):
        checkpoint(tmp_path, step)
    prune_checkpoints(tmp_path, kept=(5, 20))
    assert [folder.name for folder in complete_checkpoints(tmp_path)] == ["checkpoint-5", "checkpoint-20"]
    assert sorted(path.name for path in (tmp_path / "checkpoint-5").iterdir()) == [
        "model.safetensors",
        "training_state.json",
    ]
    assert (tmp_path / "checkpoint-20" / "optimizer.pt").exists()
    assert find_resumable(tmp_path) == tmp_path / "checkpoint-20"


def test_without_an_optimizer_nothing_can_be_resumed(tmp_path):
    assert find_resumable(tmp_path) is None
    (checkpoint(tmp_path, 5) / "optimizer.pt").unlink()
    assert find_resumable(tmp_path) is None
