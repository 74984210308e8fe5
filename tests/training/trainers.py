"""A transformers Trainer on a tiny model and random text, set up as a user would."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from ..helpers.tiny import build, tiny_input


@functools.cache
def windows(count: int = 64, length: int = 16) -> list[dict[str, torch.Tensor]]:
    """Random token ids, the same for every test."""
    return [{"input_ids": ids, "labels": ids} for ids in tiny_input(count, length)]


def tiny_trainer(
    folder: Path, model: PreTrainedModel | None = None, *, steps: int = 12, **options: Any
) -> Trainer:
    """A Trainer with two windows per step that logs the loss of every step."""
    callbacks: list[TrainerCallback] = options.pop("callbacks", [])
    settings: dict[str, Any] = {
        **{"max_steps": steps, "per_device_train_batch_size": 2, "logging_steps": 1, "learning_rate": 1e-3},
        **{"save_strategy": "no", "report_to": [], "use_cpu": True, "disable_tqdm": True, "seed": 0},
        **{"dataloader_pin_memory": False},
    }
    args = TrainingArguments(output_dir=str(folder), **(settings | options))
    return Trainer(model=model or build("llama"), args=args, train_dataset=windows(), callbacks=callbacks)


def losses(trainer: Trainer) -> list[float]:
    """The logged losses, step by step."""
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]
