"""Token counts as steps: how long a run is, what is kept along it, when a state to resume from is saved."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sparsing.training.config import TrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepSchedule:
    """The steps of a run, counted from 1."""

    batch_tokens: int
    steps: int
    warmup: int
    """Steps in which the learning rate rises."""
    decay: int
    """Steps, at the end, in which it falls."""
    kept: tuple[int, ...]
    """Steps after which the model is kept; the last one always is."""
    resume_every: int

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is written after this step."""
        return step in self.kept or step % self.resume_every == 0

    def tokens(self, step: int) -> int:
        return step * self.batch_tokens


def make_step_schedule(config: TrainConfig) -> StepSchedule:
    """Steps from the token counts of a configuration; each count becomes the first step that reaches it."""
    training, checkpoints = config.training, config.checkpoints
    batch = training.batch_tokens
    steps = math.ceil(training.tokens / batch)
    counts = checkpoints.at or log_spaced(
        checkpoints.first or training.tokens / 100, training.tokens, checkpoints.count
    )
    kept = {min(steps, max(1, math.ceil(count / batch))) for count in counts}
    return StepSchedule(
        batch_tokens=batch,
        steps=steps,
        warmup=round(training.warmup * steps),
        decay=round(training.decay * steps),
        kept=tuple(sorted(kept | {steps})),
        resume_every=max(1, round(checkpoints.resume_every / batch))
        if checkpoints.resume_every
        else max(training.log_every, steps // 50),
    )


def log_spaced(first: float, last: float, count: int) -> tuple[float, ...]:
    """`count` numbers from `first` to `last`, each the same factor above the one before."""
    return tuple(float(value) for value in np.geomspace(first, last, count))
