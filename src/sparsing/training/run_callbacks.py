"""Callbacks of the Hugging Face `Trainer` for a training run: when to log and save, the loss curve, the progress bar.

The loss curve `loss.jsonl` holds nothing that depends on the clock. Two runs of the same configuration write the same
bytes, also if one of them was killed and resumed.
"""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from sparsing.base.progress import Progress
from sparsing.base.results import read_lines, write_text
from sparsing.errors import SparsityError
from sparsing.training.schedule import StepSchedule

LOSS_FILE = "loss.jsonl"
_CURVE_KEYS = {
    "loss": "loss",
    "learning_rate": "lr",
    "grad_norm": "grad_norm",
    "eval_loss": "heldout_loss",
}
"""Keys in the logs of the Trainer, and the keys that they have in the loss curve."""


class ScheduleCallback(TrainerCallback):
    """Makes the Trainer log, evaluate and save at the steps of the schedule."""

    def __init__(self, schedule: StepSchedule, log_every: int, evaluates: bool):
        self.schedule, self.log_every, self.evaluates = schedule, log_every, evaluates

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        step = state.global_step
        saves = self.schedule.saves(step)
        # The logged loss is a mean over the steps since the last log. A checkpoint does not store the sum of an
        # unfinished mean, so every save ends the mean; otherwise a resumed run would log other values.
        control.should_log = saves or step % self.log_every == 0
        control.should_evaluate = self.evaluates and step in self.schedule.kept
        control.should_save = saves
        return control


class LossCurveCallback(TrainerCallback):
    """Writes `loss.jsonl`: one line per logged mean loss and one per held-out loss."""

    def __init__(self, run: Path, schedule: StepSchedule):
        self.path, self.schedule = run / LOSS_FILE, schedule

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            # drop the lines that a killed run wrote after its last checkpoint; the resumed run writes them again
            lines = [self._line(entry, entry["step"]) for entry in state.log_history]
            write_text(self.path, "".join(lines))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if state.is_world_process_zero and (line := self._line(logs, state.global_step)):
            with self.path.open("a", encoding="utf-8") as handle:
                handle.write(line)
        # every process stops, before the next checkpoint is written
        for name in ("loss", "grad_norm"):
            if logs and not math.isfinite(logs.get(name, 0.0)):
                raise SparsityError(
                    f"training diverged: the {name} is {logs[name]} at step {state.global_step}; lower training.lr or"
                    " raise training.warmup, and start a new run in another folder"
                )

    def _line(self, logs: dict[str, Any], step: int) -> str:
        """The line of these logs; empty if they hold nothing for the curve."""
        values = {name: logs[key] for key, name in _CURVE_KEYS.items() if key in logs}
        if not values:
            return ""
        return json.dumps({"step": step, "tokens": self.schedule.tokens(step), **values}) + "\n"


class TokenBarCallback(TrainerCallback):
    """Shows a progress bar over the training tokens, with the time left, on stderr."""

    def __init__(self, label: str, schedule: StepSchedule, progress: Progress):
        self.label, self.schedule, self.progress = label, schedule, progress
        self._stack = contextlib.ExitStack()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            total, done = self.schedule.tokens(self.schedule.steps), self.schedule.tokens(state.global_step)
            self._advance = self._stack.enter_context(self.progress.bar(self.label, total, done))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self._advance(self.schedule.batch_tokens)

    def close(self) -> None:
        """Remove the bar. The Trainer calls no callback after an exception, so the caller has to close the bar."""
        self._stack.close()


def read_loss_curve(run: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's loss curve in the order of the steps; empty if nothing was logged."""
    return read_lines(Path(run) / LOSS_FILE)
