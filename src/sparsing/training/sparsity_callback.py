"""Measures sparsity while a model trains: a callback for any transformers `Trainer` and any supported model type.

    corpus = load_corpus("heldout.txt", tokenizer, window=512, max_tokens=2048)
    SparsityCallback(corpus).attach(trainer)

Every N steps the callback measures a small fixed corpus with `probe.py`, and at every twentieth measurement also finds
PPL-p%. The figures go to the loggers of the Trainer and to `sparsity.jsonl`. Training is not changed: the loss is the
same to the last digit with and without the callback. Unless the caller sets N, the callback chooses the smallest N that
costs at most 2% of the training time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from transformers import TrainerCallback

from sparsing.base.results import read_lines, write_text
from sparsing.errors import InputError, NonFiniteError, TargetError
from sparsing.measuring.subject import Subject
from sparsing.models.loading import LoadedModel
from sparsing.rules import make_rule
from sparsing.text.corpus import Corpus
from sparsing.training.probe import Reading, probe, reading

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)

BUDGET = 0.02
"""Largest fraction of the training time to spend on measurements."""
PPL_EVERY = 20
"""Number of measurements per search for PPL-p%, which costs about ten times as much as a measurement."""
WARMUP_STEPS = 2
"""First steps, which are slower than the rest and are not timed."""
TIMED_STEPS = 8
"""Steps that are timed to choose the interval between measurements."""
PPL_TOLERANCE = 1e-3
"""Tolerance of the perplexity ratio in the search for PPL-p%; a small corpus does not resolve a smaller one."""
SPARSITY_FILE = "sparsity.jsonl"


class SparsityCallback(TrainerCallback):
    """Measures sparsity every `every` steps, for the loggers of the Trainer and `output_dir/sparsity.jsonl`.

    A resumed run continues the same file: rows after the step it resumes from are measured again. Under torchrun the
    main process measures alone, on its own copy of the model.
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
            corpus: Held-out text, the same in every measurement; 2,048 tokens are enough, at most 32,768.
            every: Steps between measurements; None times the first ten steps and chooses the smallest of 10, 20, 50,
                100, ... that costs at most `BUDGET` of the training time.
            eps: Threshold of the FAT rule on `|gate|`, at least 0.
            target_cett: Target of the CETT rule, in [0, 1].
            ppl_percent: The p of PPL-p%, above 0; None leaves PPL-p% out.

        Raises:
            InputError: if a number is out of bounds.
        """
        make_rule("fat").check(eps)
        make_rule("cett").check(target_cett)
        if (every is not None and every < 1) or (ppl_percent is not None and not ppl_percent > 0):
            raise InputError(
                f"every must be at least 1 step and ppl_percent above 0, got {every} and {ppl_percent};"
                " None lets the callback choose every, and leaves PPL-p% out"
            )
        self._corpus, self._every = corpus, every
        self._eps, self._target_cett, self._ppl_percent = eps, target_cett, ppl_percent
        self._log: Callable[[dict[str, float]], None] | None = None
        self._path = Path(SPARSITY_FILE)
        self._first_step, self._timing_began = 0, 0.0

    def attach(self, trainer: Trainer) -> Self:
        """Add the callback to `trainer`, and the figures to its loggers (TensorBoard, W&B, ...)."""
        trainer.add_callback(self)
        self._log = trainer.log
        return self

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        _refuse_shards(args)
        if not state.is_world_process_zero:
            return
        importlib.import_module("scipy.interpolate")  # otherwise the first measurement includes its import
        self._path = Path(str(args.output_dir)) / SPARSITY_FILE
        kept = [row for row in read_sparsity_rows(self._path) if row["step"] <= state.global_step]
        write_text(self._path, "".join(map(_line, kept)))
        if self._every is None:  # a resumed run keeps the interval that was chosen before
            self._every = next((row["every"] for row in reversed(kept) if row["every"]), None)
        self._first_step = state.global_step
        if not kept:  # this measurement also warms up the code that is timed later
            self._measure(state, control, with_ppl=False, **kwargs)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        step, last = state.global_step, state.global_step >= state.max_steps
        if self._every is None:
            self._time_steps(state, control, **kwargs)
        elif step % self._every == 0 or last:
            with_ppl = last or step % (self._every * PPL_EVERY) == 0
            self._measure(state, control, with_ppl=with_ppl, **kwargs)

    def find_ppl(self, loaded: LoadedModel) -> Reading | None:
        """The reading at PPL-p% on the corpus of this callback.

        Returns: None without `ppl_percent`, or if no CETT costs as much perplexity (as in an untrained model).
        """
        if self._ppl_percent is None:
            return None
        subject, rule = Subject(loaded, self._corpus, scores=("neuron_norm",)), make_rule("cett")
        try:
            level = subject.search(rule, 1 + self._ppl_percent / 100, tolerance=PPL_TOLERANCE).level
        except TargetError:
            return None
        totals = subject.sparse_pass(subject.thresholds(rule, level)).totals  # from the journal of the search
        return reading(totals.neuron, loaded, int(totals.tokens.sum()), level)

    def _time_steps(self, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Time some training steps. After the last of them, measure and choose the interval."""
        done = state.global_step - self._first_step
        if done == WARMUP_STEPS:
            self._timing_began = time.perf_counter()
        if done < WARMUP_STEPS + TIMED_STEPS:
            return
        step_sec = (time.perf_counter() - self._timing_began) / TIMED_STEPS
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
        """Measure and write a row. With `step_sec`, the seconds of a training step, also choose the interval."""
        began = time.perf_counter()
        try:
            with paused_training(kwargs["model"]) as loaded:
                readings = probe(loaded, self._corpus, eps=self._eps, target_cett=self._target_cett)
                probed = time.perf_counter()
                if with_ppl and (ppl := self.find_ppl(loaded)):
                    readings["ppl"] = ppl
                ended = time.perf_counter()
        except NonFiniteError as error:  # a diverged model must not end the training, which may recover
            logger.warning("step %d is not measured: %s", state.global_step, error)
            if step_sec is not None:
                self._every = choose_interval(time.perf_counter() - began, step_sec)
            return
        if step_sec is not None:
            self._every = choose_interval(probed - began + (ended - probed) / PPL_EVERY, step_sec)
        row = {
            "step": state.global_step,
            "tokens": state.num_input_tokens_seen or None,
            "every": self._every,
            "seconds": ended - began,
            **{name: dataclasses.asdict(value) for name, value in readings.items()},
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line(row))
        if self._log is not None:
            # Trainer.log resets should_log, which would cancel the Trainer's own log of this step
            should_log = control.should_log
            self._log(_scalars(readings))
            control.should_log = should_log


def choose_interval(measurement_sec: float, step_sec: float) -> int:
    """The smallest interval of 10, 20, 50, 100, 200, ... steps at which measuring costs at most `BUDGET` of the time.

    The scale is coarse so that runs on the same machine choose the same interval.
    """
    steps = measurement_sec / (BUDGET * step_sec)
    decade = 10 ** max(1, math.floor(math.log10(max(steps, 1))))
    return next(decade * factor for factor in (1, 2, 5, 10) if decade * factor >= steps)


@contextlib.contextmanager
def paused_training(model: PreTrainedModel) -> Iterator[LoadedModel]:
    """The model in eval mode, ready to be measured. The mode of each module and the random state are restored."""
    training = [module for module in model.modules() if module.training]
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        try:
            yield LoadedModel.of(
                model,
                tokenizer=None,  # pyright: ignore[reportArgumentType]  # measuring a corpus needs no tokenizer
                name="model in training",
            )
        finally:
            # not model.train(): the user may have put single modules into eval mode
            for module in training:
                module.training = True


def read_sparsity_rows(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a `sparsity.jsonl`; empty if there is no such file.

    A row has `step`, `tokens` (training tokens, None if the Trainer does not count them), `every`, `seconds` (time of
    the measurement) and the readings `zero`, `fat`, `cett` and possibly `ppl`, each with the fields of `Reading`.
    """
    return read_lines(path)


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"


def _scalars(readings: dict[str, Reading]) -> dict[str, float]:
    """The figures for the loggers: activation ratio and dead neurons under each rule, and CETT layer by layer."""
    scalars = {f"activation_ratio/{name}": value.activation_ratio for name, value in readings.items()}
    scalars |= {f"dead_neuron_ratio/{name}": value.dead_neuron_ratio for name, value in readings.items()}
    layers = enumerate(readings["cett"].layer_activation_ratio)
    return scalars | {f"activation_ratio_cett/layer_{layer}": ratio for layer, ratio in layers}


def _refuse_shards(args: TrainingArguments) -> None:
    """Raise InputError if no process holds the whole model."""
    from transformers.integrations import is_deepspeed_zero3_enabled

    by_accelerate = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true")
    if args.fsdp or by_accelerate or is_deepspeed_zero3_enabled():
        raise InputError(
            "SparsityCallback measures on one process, but with FSDP and ZeRO-3 each process holds only a part of the"
            " model; save checkpoints and run `sparsing track` on them"
        )
