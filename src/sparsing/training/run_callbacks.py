"""What a run shows and keeps while it goes: the loss curve as JSONL, a bar with the time left, when to save.

Callbacks of the Hugging Face `Trainer`. `loss.jsonl` holds nothing that depends on the clock, so two runs of the
same configuration, also one that was killed and resumed, write the same bytes.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from sparsing.base.progress import Progress
from sparsing.base.results import read_lines, write_text
from sparsing.training.schedule import StepSchedule

LOSS_FILE = "loss.jsonl"
_SAID = {
    "loss": "loss",
    "learning_rate": "lr",
    "grad_norm": "grad_norm",
    "eval_loss": "heldout_loss",
}
"""The Trainer's names to those of a line of the curve."""


class ScheduleCallback(TrainerCallback):
    """Logs, judges and saves at the steps of the schedule."""

    def __init__(self, schedule: StepSchedule, log_every: int, judges: bool):
        self.schedule, self.log_every, self.judges = schedule, log_every, judges

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        step = state.global_step
        saves = self.schedule.saves(step)
        # a mean over steps must not reach over a save: after a resume its first half would be lost
        control.should_log = saves or step % self.log_every == 0
        control.should_evaluate = self.judges and step in self.schedule.kept
        control.should_save = saves
        return control


class LossCurveCallback(TrainerCallback):
    """Writes `loss.jsonl`, a line per logged mean and per held-out loss."""

    def __init__(self, run: Path, schedule: StepSchedule):
        self.path, self.schedule = run / LOSS_FILE, schedule

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:  # what a killed run wrote after its last checkpoint comes again
            lines = [self._line(entry, entry["step"]) for entry in state.log_history]
            write_text(self.path, "".join(line for line in lines if line))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if state.is_world_process_zero and (line := self._line(logs, state.global_step)):
            with self.path.open("a", encoding="utf-8") as handle:
                handle.write(line)

    def _line(self, logs: dict[str, Any], step: int) -> str:
        said = {name: logs[key] for key, name in _SAID.items() if key in logs}
        if not said:
            return ""
        return json.dumps({"step": step, "tokens": self.schedule.tokens(step), **said}) + "\n"


class TokenBarCallback(TrainerCallback):
    """A bar over the run's tokens with the time left, on stderr."""

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
        """Take the bar down, also when training ended in an exception."""
        self._stack.close()


def read_loss_curve(run: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's loss curve, in the order of the steps; empty where nothing was logged."""
    return read_lines(Path(run) / LOSS_FILE)
