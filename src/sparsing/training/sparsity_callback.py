"""Sparsity while a model trains: a callback for any transformers `Trainer`, of any supported model type.

    corpus = load_corpus("heldout.txt", tokenizer, window=512, max_tokens=2048)
    SparsityCallback(corpus).attach(trainer)

Every N steps it measures a fixed small corpus (`probe.py`; PPL-p% at every twentieth time) and gives the figures
to the Trainer's own loggers and to `sparsity.jsonl`. Training is not changed by it: the same loss to the last
digit. N is chosen so that it takes at most 2% of the time, unless the caller says otherwise.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from transformers import TrainerCallback

from sparsing.base.results import read_lines, write_text
from sparsing.errors import InputError, TargetError
from sparsing.measuring.subject import Subject
from sparsing.models.loading import LoadedModel
from sparsing.rules import make_rule
from sparsing.text.corpus import Corpus
from sparsing.training.probe import Reading, probe, reading

if TYPE_CHECKING:
    from torch import nn
    from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

BUDGET = 0.02
"""Share of the training time that measuring may take."""
PPL_EVERY = 20
"""One measurement in so many finds PPL-p% too: it costs some ten times as much."""
TIMED = (2, 10)
"""Steps between which training is timed to choose N; the first ones are still warming up."""
PPL_TOLERANCE = 1e-3
"""Of the perplexity ratio; a small corpus knows it no better."""
FILE = "sparsity.jsonl"


class SparsityCallback(TrainerCallback):
    """Measures sparsity every `every` steps; rows go to the Trainer's loggers and to `output_dir/sparsity.jsonl`.

    A resumed run goes on in the same file: rows after the step it resumes from are measured again. Under
    torchrun the main process measures alone, on its own copy of the model.
    """

    def __init__(
        self,
        corpus: Corpus,
        *,
        every: int | None = None,
        eps: float = 0.01,
        target_cett: float = 0.2,
        ppl_percent: float | None = 1.0,
    ):
        """
        Args:
            corpus: Held-out text, always the same; 2,048 tokens are enough, at most 32,768.
            every: Steps between two measurements; None times the first ten steps and takes the smallest of 10,
                20, 50, 100, ... that keeps within `BUDGET` of the training time.
            eps: Of FAT, a cut of `|gate|`, 0 or above.
            target_cett: Of the CETT rule, in [0, 1].
            ppl_percent: The p of PPL-p%, above 0; None leaves it out.

        Raises:
            InputError: a number out of bounds.
        """
        make_rule("fat").check(eps)
        make_rule("cett").check(target_cett)
        if (every is not None and every < 1) or (ppl_percent is not None and not ppl_percent > 0):
            raise InputError(
                f"every must be at least 1 step and ppl_percent above 0, got {every} and {ppl_percent};"
                " None lets the callback choose every, and leaves out PPL-p%"
            )
        self._corpus, self._every = corpus, every
        self._eps, self._target_cett, self._ppl_percent = eps, target_cett, ppl_percent
        self._log: Callable[[dict[str, float]], None] | None = None
        self._path = Path(FILE)
        self._begun = (0, 0.0)

    def attach(self, trainer: Trainer) -> Self:
        """Join `trainer`, so that its loggers (TensorBoard, W&B, ...) get the figures too."""
        trainer.add_callback(self)
        self._log = trainer.log
        return self

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        _refuse_shards(args)
        if not state.is_world_process_zero:
            return
        importlib.import_module("scipy.interpolate")  # else the first measurement pays for it
        self._path = Path(str(args.output_dir)) / FILE
        kept = [row for row in read_sparsity_rows(self._path) if row["step"] <= state.global_step]
        write_text(self._path, "".join(map(_line, kept)))
        if self._every is None:
            self._every = next((row["every"] for row in reversed(kept) if row["every"]), None)
        self._begun = (state.global_step, 0.0)
        if not kept:  # also warms up what is timed later
            self._measure(state, control, with_ppl=False, **kwargs)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        step, last = state.global_step, state.global_step >= state.max_steps
        if self._every is None:
            self._time(state, control, **kwargs)
        elif step % self._every == 0 or last:
            with_ppl = last or step % (self._every * PPL_EVERY) == 0
            self._measure(state, control, with_ppl=with_ppl, **kwargs)

    def _time(self, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Times some steps, then a measurement, and chooses `every`."""
        done = state.global_step - self._begun[0]
        if done == TIMED[0]:
            self._begun = (self._begun[0], time.perf_counter())
        if done < TIMED[1]:
            return
        step_sec = (time.perf_counter() - self._begun[1]) / (TIMED[1] - TIMED[0])
        self._measure(state, control, with_ppl=True, step_sec=step_sec, **kwargs)

    def _measure(
        self,
        state: TrainerState,
        control: TrainerControl,
        *,
        with_ppl: bool,
        step_sec: float | None = None,
        **kwargs: Any,
    ) -> None:
        """Writes a row; given the seconds of a training step, it also chooses `every` by what measuring took."""
        times = [time.perf_counter()]
        with paused_training(kwargs["model"]) as loaded:
            readings = probe(loaded, self._corpus, eps=self._eps, target_cett=self._target_cett)
            times.append(time.perf_counter())
            if with_ppl and (found := self._ppl(loaded)):
                readings["ppl"] = found
            times.append(time.perf_counter())
        if step_sec is not None:
            a_row = times[1] - times[0] + (times[2] - times[1]) / PPL_EVERY
            self._every = _round_up(a_row / (BUDGET * step_sec))
        row = {
            "step": state.global_step,
            "tokens": state.num_input_tokens_seen or None,
            "every": self._every,
            "seconds": times[2] - times[0],
            **{name: dataclasses.asdict(found) for name, found in readings.items()},
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line(row))
        if self._log is not None:
            # logging now must not cancel what the Trainer wants to log itself
            should_log = control.should_log
            self._log(_scalars(readings))
            control.should_log = should_log

    def _ppl(self, loaded: LoadedModel) -> Reading | None:
        """PPL-p%; None where it is left out, or no CETT costs as much (an untrained model)."""
        if self._ppl_percent is None:
            return None
        subject = Subject(loaded, self._corpus, scores=("neuron_norm",))
        try:
            found = subject.search(make_rule("cett"), 1 + self._ppl_percent / 100, tolerance=PPL_TOLERANCE)
        except TargetError:
            return None
        return _read(subject, found.level)


def _read(subject: Subject, level: float) -> Reading:
    """The reading of a sparse pass that the search has made already."""
    totals = subject.sparse_pass(subject.thresholds(make_rule("cett"), level))
    return reading(totals["neuron"], subject.loaded, int(totals["tokens"].sum()), level)


@contextlib.contextmanager
def paused_training(model: nn.Module) -> Iterator[LoadedModel]:
    """The model in eval mode, ready to be measured; its modes and the random state come back as they were."""
    training = [module for module in model.modules() if module.training]
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        try:
            yield LoadedModel.of(model, tokenizer=None, name="model in training")  # pyright: ignore
        finally:
            for module in training:
                module.training = True


def read_sparsity_rows(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a `sparsity.jsonl`, none where there is no file.

    A row has `step`, `tokens` (seen, where the Trainer counts them), `every`, `seconds` (what measuring took)
    and the readings `zero`, `fat`, `cett`, `ppl`, each with the fields of `probe.Reading`.
    """
    return read_lines(path)


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"


def _scalars(readings: dict[str, Reading]) -> dict[str, float]:
    """What loggers get: ratios and dead neurons of every rule, and the layers under the CETT rule."""
    scalars = {f"activation_ratio/{name}": found.activation_ratio for name, found in readings.items()}
    scalars |= {f"dead_neuron_ratio/{name}": found.dead_neuron_ratio for name, found in readings.items()}
    layers = enumerate(readings["cett"].layer_activation_ratio)
    return scalars | {f"activation_ratio_cett/layer_{layer}": ratio for layer, ratio in layers}


def _round_up(steps: float) -> int:
    """The next of 10, 20, 50, 100, 200, ...: runs on one machine choose the same."""
    decade = 10 ** max(1, math.floor(math.log10(max(steps, 1))))
    return next(decade * factor for factor in (1, 2, 5, 10) if decade * factor >= steps)


def _refuse_shards(args: TrainingArguments) -> None:
    """Raise InputError where no process holds the whole model."""
    from transformers.integrations import is_deepspeed_zero3_enabled

    by_accelerate = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true")
    if args.fsdp or by_accelerate or is_deepspeed_zero3_enabled():
        raise InputError(
            "SparsityCallback measures on one process, and FSDP and ZeRO-3 keep a part of the model on each;"
            " save checkpoints and use `sparsing track` on them"
        )
