"""`train`: one configuration trained into one folder, on the Hugging Face `Trainer`.

Devices, processes, FSDP and mixed precision are the Trainer's and accelerate's (`torchrun -m sparsing train ...`).
What is ours: muP's parameter groups, the order of the windows, when to save, and going on after a kill.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments, default_data_collator
from transformers.trainer_callback import PrinterCallback

from sparsing.base.progress import Progress
from sparsing.base.results import write_text
from sparsing.errors import InputError
from sparsing.training import run_checkpoints as saving
from sparsing.training.config import TrainConfig
from sparsing.training.config_file import build_train_config
from sparsing.training.data import Windows, read_texts, write_tokens
from sparsing.training.extras import RunExtras
from sparsing.training.mup import build_granite, make_granite_config, parameter_groups
from sparsing.training.run_callbacks import (
    LossCurveCallback,
    ScheduleCallback,
    TokenBarCallback,
    read_loss_curve,
)
from sparsing.training.schedule import StepSchedule, make_step_schedule
from sparsing.training.tokenizer import open_tokenizer, train_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONFIG_FILE = "train.json"
LEAST_READ = 10_000_000
"""Tokens of text that a shorter run reads too, so that it does not learn on one corner of the text."""


def train(
    config: TrainConfig,
    run: str | Path,
    *,
    progress: Progress | None = None,
    callbacks: tuple[TrainerCallback, ...] = (),
) -> list[dict[str, Any]]:
    """Train, or go on training, into the folder `run`; returns its loss curve, one dictionary per line.

    The folder gets `train.json` (the configuration), `tokenizer/`, `tokens.bin`, `loss.jsonl` and one
    `checkpoint-<step>` per kept step. The same call on the same folder goes on after the last checkpoint, and
    ends with the same bytes of `loss.jsonl` on a CPU with the same number of threads; a finished run is left as it is.

    Raises:
        InputError: accelerate is not installed, a folder of another configuration, a text or tokenizer that
            cannot be read, a batch that does not divide among the processes.
    """
    if importlib.util.find_spec("accelerate") is None:
        raise InputError("training needs accelerate: pip install 'sparsing[train]'")
    run = Path(run)
    schedule = make_step_schedule(config)
    micro, accumulation = split_batch(config)
    make_granite_config(config.model)
    extras = RunExtras(config)
    with _first_process():
        _claim(run, config)
        tokenizer = _tokenizer(config, run)
        windows, heldout = _windows(config, schedule, tokenizer, run)
    if schedule.steps in [saving.step_of(folder) for folder in saving.complete_checkpoints(run)]:
        return read_loss_curve(run)
    bar = TokenBarCallback(f"training {run.name}", schedule, progress or Progress())
    model, resumed = build_granite(config.model, config.training.seed, tokenizer), saving.find_resumable(run)
    trainer = MupTrainer(
        config=config,
        schedule=schedule,
        model=model if resumed else extras.start(model),
        args=_arguments(config, schedule, run, micro, accumulation),
        train_dataset=windows,
        eval_dataset=heldout,
        processing_class=tokenizer,
        data_collator=default_data_collator,
        callbacks=[
            ScheduleCallback(schedule, config.training.log_every, heldout is not None),
            LossCurveCallback(run, schedule),
            bar,
            *callbacks,
        ],
    )
    trainer.remove_callback(PrinterCallback)
    extras.attach(trainer, tokenizer)
    with contextlib.closing(bar), _quiet():
        trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    return read_loss_curve(run)


class MupTrainer(Trainer):
    """The Hugging Face Trainer with muP's groups, windows in their own order, and checkpoints that are marked."""

    def __init__(self, *, config: TrainConfig, schedule: StepSchedule, **options: Any):
        self.config, self.schedule = config, schedule
        super().__init__(**options)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        """The model's loss, without a cache of keys and values, which training does not use."""
        return super().compute_loss(model, {**inputs, "use_cache": False}, *args, **options)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW over the groups of `parameter_groups`."""
        if self.optimizer is None:
            training = self.config.training
            groups = parameter_groups(
                (self.model if model is None else model).named_parameters(),  # pyright: ignore[reportOptionalMemberAccess]
                self.config.model.width_ratio,
                training,
            )
            self.optimizer = torch.optim.AdamW(
                groups,
                lr=training.lr,
                betas=(training.beta1, training.beta2),
                weight_decay=training.weight_decay,
                fused=True,
            )
        return self.optimizer

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        step, run = self.state.global_step, Path(str(self.args.output_dir))
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            folder = run / f"checkpoint-{step}"
            (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle that nothing here reads
            saving.mark_complete(folder, step, self.schedule.tokens(step))
            saving.prune_checkpoints(run, self.schedule.kept)


def split_batch(config: TrainConfig) -> tuple[int, int]:
    """Windows that a device takes at once, and how often it does so in a step.

    Raises:
        InputError: the windows of a step do not divide among the processes, or not into micro-batches.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    windows = config.training.batch_tokens // config.model.context
    share, rest = divmod(windows, processes)
    if rest or not share:
        raise InputError(
            f"a step of training.batch_tokens = {config.training.batch_tokens} has {windows} windows, which do not"
            f" divide among {processes} processes; make it a multiple of {processes * config.model.context}"
        )
    micro = config.training.micro_batch or share
    if share % micro:
        raise InputError(
            f"training.micro_batch {micro} does not divide the {share} windows that a device has in a step;"
            f" take a divisor of {share}"
        )
    return micro, share // micro


def _arguments(
    config: TrainConfig, schedule: StepSchedule, run: Path, micro: int, accumulation: int
) -> TrainingArguments:
    training, gpu = config.training, torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(run),
        max_steps=schedule.steps,
        per_device_train_batch_size=micro,
        per_device_eval_batch_size=micro,
        gradient_accumulation_steps=accumulation,
        learning_rate=training.lr,
        max_grad_norm=training.clip,
        lr_scheduler_type="warmup_stable_decay",
        warmup_steps=schedule.warmup,
        lr_scheduler_kwargs={"num_decay_steps": schedule.decay, "decay_type": training.decay_shape},
        bf16=training.precision == "bfloat16" or (training.precision == "auto" and gpu),
        use_cpu=not gpu,
        use_cache=True,  # in the saved configuration; `compute_loss` turns it off for training
        seed=training.seed,
        train_sampling_strategy="sequential",
        dataloader_pin_memory=gpu,
        eval_strategy="no",
        save_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        prediction_loss_only=True,
        disable_tqdm=True,
        report_to="none",
    )


def is_main_process() -> bool:
    """Whether this is the process of a run that writes its files."""
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def _first_process() -> Iterator[None]:
    """The first process of a run writes the files that the others then read."""
    from accelerate import PartialState

    with PartialState(cpu=not torch.cuda.is_available()).main_process_first():
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars that transformers shows for every file it saves; the caller's setting comes back."""
    from transformers.utils import logging as transformers_logging

    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            transformers_logging.enable_progress_bar()


def _claim(run: Path, config: TrainConfig) -> None:
    """Write the configuration, or see that the folder has the same one; without a checkpoint it may still change."""
    path = run / CONFIG_FILE
    there = build_train_config(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None
    if there is None and any(run.glob("checkpoint-*")):
        raise InputError(
            f"{str(run)!r} holds checkpoints that no `sparsing train` run has made; choose another folder with -o"
        )
    saving.remove_incomplete(run)
    if there == config:
        return
    if there is None or saving.find_resumable(run) is None:
        shutil.rmtree(run / "tokenizer", ignore_errors=True)
        write_text(path, json.dumps(config.to_dict(), indent=1) + "\n")
        return
    mine, theirs = _flat(config.to_dict()), _flat(there.to_dict())
    key = next(key for key in (*mine, *theirs) if mine.get(key) != theirs.get(key))
    raise InputError(
        f"the run in {str(run)!r} has {key} = {theirs.get(key)!r}, this configuration has {mine.get(key)!r};"
        " choose another folder with -o, or remove that run"
    )


def _flat(tables: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys to values."""
    pairs = ((n, t.items()) if isinstance(t, dict) else ("", [(n, t)]) for n, t in tables.items())
    return {f"{table}.{key}".lstrip("."): value for table, items in pairs for key, value in items}


def _tokenizer(config: TrainConfig, run: Path) -> PreTrainedTokenizerBase:
    folder = run / "tokenizer"
    if not (folder / "tokenizer_config.json").exists():
        if there := config.tokenizer.path or (config.sparser.start if config.sparser else ""):
            tokenizer = open_tokenizer(there)
        else:
            data = config.data
            texts = (text for text, _ in read_texts(data.text, split=data.split, column=data.column))
            tokenizer = train_tokenizer(
                texts,
                config.model.vocab_size,
                config.model.context,
                sample_chars=config.tokenizer.sample_chars,
            )
        make_granite_config(config.model, tokenizer)
        tokenizer.save_pretrained(folder)
    return open_tokenizer(folder)


def _windows(
    config: TrainConfig, schedule: StepSchedule, tokenizer: PreTrainedTokenizerBase, run: Path
) -> tuple[Windows, Windows | None]:
    """The training windows of all steps, and the held-out ones where there is a held-out text."""
    data, context = config.data, config.model.context
    most = max(schedule.tokens(schedule.steps) + context, LEAST_READ)
    key = {"text": data.text, "split": data.split, "column": data.column}
    texts = read_texts(data.text, split=data.split, column=data.column)
    ids = write_tokens(run / "tokens.bin", texts, tokenizer, most=most, key=key)
    count = schedule.tokens(schedule.steps) // context
    windows = Windows(ids, context, count, seed=config.training.seed)
    if not (data.heldout_source and data.heldout_tokens):
        return windows, None
    key = {"text": data.heldout_source, "split": data.heldout_split, "column": data.column}
    texts = read_texts(data.heldout_source, split=data.heldout_split, column=data.column)
    ids = write_tokens(run / "heldout.bin", texts, tokenizer, most=max(data.heldout_tokens, context), key=key)
    heldout = Windows(ids, context, max(1, len(ids) // context), shuffle=False)
    return windows, heldout
