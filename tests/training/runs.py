"""A tiny run: a text on disk, and a configuration that trains on it in about a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from sparsing.training.config import TrainConfig
from sparsing.training.config_file import read_train_config

TEXTS = [f"def f{i}(x):\n    return x + {i}  # adds {i}\n" * 12 for i in range(40)]
TINY: dict[str, Any] = {
    **{"model.d_model": 32, "model.n_layers": 2, "model.n_heads": 2, "model.vocab_size": 280},
    **{"model.context": 32, "model.dim_model_base": 16},
    **{"training.tokens": 20 * 128, "training.batch_tokens": 128, "training.log_every": 3},
    **{"checkpoints.at": [5 * 128, 12 * 128], "checkpoints.resume_every": 4 * 128},
    **{"data.heldout_tokens": 64},
}
"""Twenty steps of four windows. Models are kept after steps 5, 12 and 20; every fourth step can be resumed."""


def write_text(folder: Path) -> Path:
    """Write the documents as files of a folder, in order."""
    folder.mkdir()
    for i, text in enumerate(TEXTS):
        (folder / f"{i:02}.txt").write_text(text, encoding="utf-8")
    return folder


def tiny_config(text: Path, **overrides: Any) -> TrainConfig:
    """The tiny run on this text. Keyword arguments are keys with `__` for the dot."""
    changed = {key.replace("__", "."): value for key, value in overrides.items()}
    return read_train_config(overrides={**TINY, "data.text": str(text), "data.heldout": str(text), **changed})


class StopAt(TrainerCallback):
    """Ends training by an exception after a step, as Ctrl-C does."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt
