"""The cells of the study: the list of training runs in the order they run, and the result saved for each.

A cell is one training run with a shape, an activation and a seed. Small models come first, and repetitions with other
seeds come after one cell per question, so that an interrupted study has answers early.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from sparsing.base.results import Result
from sparsing.training.tracking import Track

HERE = Path("studies/nano")
"""Relative to the root of the repository, which the scripts change to, so that results contain no absolute path."""
WORK = HERE / ".work"
"""Folder of checkpoints, which are not committed."""
RESULTS = HERE / "results"

TOKENS = 4_000_000
EARLY = tuple(round(value) for value in np.geomspace(50_000, 1_000_000, 9))
LATE = tuple(range(1_300_000, TOKENS + 1, 300_000))
WINDOW = 256
WINDOWS = 96
"""Held-out windows that every checkpoint is measured on, spread evenly over the held-out documents: 24,576 tokens."""
SCALES = ("nano-0.3M", "nano-0.9M", "nano-2M", "nano-4M")
"""Presets of different size, all with a width-depth ratio of 48."""
SHAPES = ("nano-256x1", "nano-176x2", "nano-144x3", "nano-112x5", "nano-80x10", "nano-96x7", "nano-64x15")
"""Presets of different shape, all with 0.71M to 0.75M parameters in their blocks."""
SEEDED = "nano-0.9M"
"""The preset that is repeated with other seeds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One training run."""

    preset: str
    hidden_act: str
    seed: int = 1

    @property
    def name(self) -> str:
        return f"{self.preset.removeprefix('nano-')}-{self.hidden_act}-seed{self.seed}"

    @property
    def result(self) -> Path:
        return RESULTS / f"{self.name}.json"

    def overrides(self) -> dict[str, Any]:
        """Keys of the training configuration that differ from the preset.

        The learning rate stays at its peak, so that all points lie in one phase of the schedule.
        """
        return {
            "model.hidden_act": self.hidden_act,
            "data.heldout_tokens": 0,
            "tokenizer.path": str(WORK / "tokenizer"),
            "training.tokens": TOKENS,
            "training.decay": 0.0,
            "training.precision": "bfloat16",
            "training.seed": self.seed,
            "checkpoints.at": [*EARLY, *LATE],
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class CellResult(Result):
    """The saved result of a finished cell."""

    kind = "CellResult"

    name: str
    preset: str
    hidden_act: str
    seed: int
    d_model: int
    n_layers: int
    num_parameters: int
    block_parameters: int
    """Weights of the attention and feed-forward matrices."""
    loss_tokens: tuple[int, ...]
    """Training tokens of the points of the loss curve."""
    loss: tuple[float, ...]
    """Training loss, nats per token, mean over the steps since the previous point."""
    track: Track
    """Activation ratio and held-out loss along training, at one CETT."""
    train_sec: float
    """Wall time of the session that completed the training; sessions that were interrupted are not included."""
    track_sec: float


def _order() -> list[Cell]:
    relu = [Cell(preset=shape, hidden_act="relu") for shape in SHAPES]
    pairs = [[Cell(preset=scale, hidden_act=act) for act in ("relu", "silu")] for scale in SCALES]
    seeds = [Cell(preset=SEEDED, hidden_act=act, seed=seed) for act in ("relu", "silu") for seed in (2, 3)]
    return [*pairs[0], *pairs[1], *relu[:5], *pairs[2], *seeds, *relu[5:], *pairs[3]]


CELLS = _order()
