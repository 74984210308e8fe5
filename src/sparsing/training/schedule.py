"""The steps of a run: its length, and after which steps a checkpoint is kept or saved to resume from.

A configuration counts tokens and the Trainer counts steps; `make_step_schedule` converts one to the other.
"""

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
    """Tokens per step."""
    steps: int
    """Number of steps in the run."""
    warmup: int
    """Steps in which the learning rate rises."""
    decay: int
    """Steps, at the end, in which the learning rate falls."""
    kept: tuple[int, ...]
    """Steps after which the model is kept; the last step is one of them."""
    resume_every: int
    """Steps between checkpoints that serve only to resume."""

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is written after this step."""
        return step in self.kept or step % self.resume_every == 0

    def phase(self, step: int) -> str:
        """What the learning rate does in this step: `warmup`, `stable` or `decay`."""
        if step > self.steps - self.decay:
            return "decay"
        return "warmup" if step <= self.warmup else "stable"

    def tokens(self, step: int) -> int:
        """Training tokens seen after this step."""
        return step * self.batch_tokens


def make_step_schedule(config: TrainConfig) -> StepSchedule:
    """The steps of a configuration. A token count becomes the first step that reaches it."""
    training, checkpoints = config.training, config.checkpoints
    batch = training.batch_tokens
    steps = math.ceil(training.tokens / batch)
    counts = checkpoints.at or log_spaced(
        checkpoints.first or training.tokens / 100, training.tokens, checkpoints.count
    )
    kept = {min(steps, max(1, math.ceil(count / batch))) for count in counts}
    if checkpoints.resume_every:
        resume_every = max(1, round(checkpoints.resume_every / batch))
    else:  # not below log_every, or a short run would spend its time on saving
        resume_every = max(training.log_every, steps // 50)
    return StepSchedule(
        batch_tokens=batch,
        steps=steps,
        warmup=round(training.warmup * steps),
        decay=round(training.decay * steps),
        kept=tuple(sorted(kept | {steps})),
        resume_every=resume_every,
    )


def log_spaced(first: float, last: float, count: int) -> tuple[float, ...]:
    """`count` numbers from `first` to `last`, each greater than the previous one by the same factor."""
    return tuple(float(value) for value in np.geomspace(first, last, count))
