"""Trains one configuration into one run folder with the Hugging Face `Trainer`; start at `train`.

Devices, processes, FSDP and mixed precision are handled by the Trainer and accelerate (`torchrun -m sparsing train
...`). This module adds the parameter groups of muP, the order of the windows, the schedule of checkpoints, and exact
resuming after a kill.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments, default_data_collator
from transformers.trainer_callback import PrinterCallback

from sparsing.base.checked_files import read_object
from sparsing.base.extras import install_command
from sparsing.base.launched import num_processes, rank
from sparsing.base.progress import Progress
from sparsing.base.results import write_text
from sparsing.base.run_lock import PARTIAL, lock_folder
from sparsing.errors import InputError
from sparsing.training import run_callbacks, run_checkpoints
from sparsing.training.config import TrainConfig
from sparsing.training.config_file import build_train_config
from sparsing.training.data import Windows, read_texts, write_tokens
from sparsing.training.extras import RunExtras
from sparsing.training.mup import build_granite, make_granite_config, parameter_groups
from sparsing.training.schedule import StepSchedule, make_step_schedule
from sparsing.training.tokenizer import open_tokenizer, train_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONFIG_FILE = "train.json"
MIN_TEXT_TOKENS = 10_000_000
"""Tokens of text to read at least, so that a short run does not train on the first few documents only."""


def train(
    config: TrainConfig,
    run: str | Path,
    *,
    progress: Progress | None = None,
    callbacks: tuple[TrainerCallback, ...] = (),
) -> list[dict[str, Any]]:
    """Train a model into the folder `run`, or resume the run in that folder.

    The folder gets `train.json` (the configuration), `tokenizer/`, `tokens.bin`, `loss.jsonl` and one folder
    `checkpoint-<step>` per kept step. The same call on the same folder resumes after the last checkpoint and ends with
    the same bytes of `loss.jsonl`, on a CPU with the same number of threads. A finished run is not changed.

    Returns: the lines of the loss curve, as `read_loss_curve` gives them.

    Raises:
        InputError: if accelerate is not installed, the folder holds a run of another configuration, a text or
            tokenizer cannot be read, or a batch does not divide among the processes.
    """
    if importlib.util.find_spec("accelerate") is None:
        raise InputError(f"training needs accelerate: {install_command('train')}")
    run = Path(run)
    # everything that can be wrong with the configuration is found before the folder is touched
    schedule, split = make_step_schedule(config), split_batch(config)
    make_granite_config(config.model)
    extras = RunExtras(config)
    with lock_folder(run), _full_disk_is_an_error(run):
        _train(config, run, schedule, split, extras, progress or Progress(), callbacks)
    return run_callbacks.read_loss_curve(run)


def _train(
    config: TrainConfig,
    run: Path,
    schedule: StepSchedule,
    split: BatchSplit,
    extras: RunExtras,
    progress: Progress,
    callbacks: tuple[TrainerCallback, ...],
) -> None:
    """Prepare the files of the run, and train from its last checkpoint to its end."""
    with _main_process_first():
        _claim_folder(run, config)
        tokenizer = _prepare_tokenizer(config, run)
        windows, heldout = _prepare_windows(config, schedule, tokenizer, run)
    if schedule.steps in [
        run_checkpoints.step_of(folder) for folder in run_checkpoints.complete_checkpoints(run)
    ]:
        return
    bar = run_callbacks.TokenBarCallback(f"training {run.name}", schedule, progress)
    model, resumed = (
        build_granite(config.model, config.training.seed, tokenizer),
        run_checkpoints.find_resumable(run),
    )
    if resumed and is_main_process():
        run_checkpoints.check_resumable(resumed)
    trainer = MupTrainer(
        config=config,
        schedule=schedule,
        model=model if resumed else extras.load_start(model),
        args=_make_arguments(config, schedule, split, run),
        train_dataset=windows,
        eval_dataset=heldout,
        processing_class=tokenizer,
        data_collator=default_data_collator,
        callbacks=[
            run_callbacks.ScheduleCallback(schedule, config.training.log_every, heldout is not None),
            run_callbacks.LossCurveCallback(run, schedule),
            bar,
            *callbacks,
        ],
    )
    trainer.remove_callback(PrinterCallback)
    extras.attach(trainer, tokenizer)
    with contextlib.closing(bar), _no_saving_bars():
        trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)


class MupTrainer(Trainer):
    """The Hugging Face Trainer with the parameter groups of muP and with marked, pruned checkpoints."""

    def __init__(self, *, config: TrainConfig, schedule: StepSchedule, **options: Any):
        self.config, self.schedule = config, schedule
        super().__init__(**options)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        """The loss of the model, without a cache of keys and values, which training does not need."""
        return super().compute_loss(model, {**inputs, "use_cache": False}, *args, **options)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW over the groups of `parameter_groups`."""
        if self.optimizer is None:
            model = self.model if model is None else model
            training = self.config.training
            self.optimizer = torch.optim.AdamW(
                parameter_groups(model.named_parameters(), self.config.model.width_ratio, training),
                lr=training.lr,
                betas=(training.beta1, training.beta2),
                weight_decay=training.weight_decay,
                fused=True,
            )
        return self.optimizer

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        step, run = self.state.global_step, Path(str(self.args.output_dir))
        # the mark says that the files of all processes are there
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            folder = run / f"checkpoint-{step}"
            (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle, which this package never reads
            run_checkpoints.mark_complete(folder, step, self.schedule.tokens(step), self.schedule.phase(step))
            run_checkpoints.prune_checkpoints(run, self.schedule.kept)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchSplit:
    """How one process divides its windows of an optimizer step."""

    micro_batch: int
    """Windows per forward pass."""
    accumulation: int
    """Forward passes per step."""


def split_batch(config: TrainConfig) -> BatchSplit:
    """The division of a step among the processes of `torchrun` and into micro-batches.

    Raises:
        InputError: if the windows of a step do not divide among the processes, or not into micro-batches.
    """
    processes = num_processes()
    windows = config.training.batch_tokens // config.model.context
    share, rest = divmod(windows, processes)
    if rest or not share:
        raise InputError(
            f"a step of training.batch_tokens = {config.training.batch_tokens} has {windows} windows, which do not"
            f" divide among {processes} processes; make it a multiple of {processes * config.model.context}"
        )
    micro_batch = config.training.micro_batch or share
    if share % micro_batch:
        raise InputError(
            f"training.micro_batch = {micro_batch} does not divide the {share} windows that a device has in a step;"
            f" choose a divisor of {share}"
        )
    return BatchSplit(micro_batch=micro_batch, accumulation=share // micro_batch)


def is_main_process() -> bool:
    """Whether this process is the one that writes the files of the run."""
    return rank() == 0


def _make_arguments(
    config: TrainConfig, schedule: StepSchedule, split: BatchSplit, run: Path
) -> TrainingArguments:
    training, gpu = config.training, torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(run),
        max_steps=schedule.steps,
        per_device_train_batch_size=split.micro_batch,
        per_device_eval_batch_size=split.micro_batch,
        gradient_accumulation_steps=split.accumulation,
        learning_rate=training.lr,
        max_grad_norm=training.clip,
        lr_scheduler_type="warmup_stable_decay",
        warmup_steps=schedule.warmup,
        lr_scheduler_kwargs={"num_decay_steps": schedule.decay, "decay_type": training.decay_shape},
        bf16=training.precision == "bfloat16" or (training.precision == "auto" and gpu),
        use_cpu=not gpu,
        use_cache=True,  # for the saved configuration; `MupTrainer.compute_loss` turns it off in training
        seed=training.seed,
        train_sampling_strategy="sequential",  # `Windows` shuffles by itself
        dataloader_pin_memory=gpu,
        # `ScheduleCallback` decides when to evaluate, save and log
        eval_strategy="no",
        save_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,  # a diverged run must show in the loss curve
        prediction_loss_only=True,
        disable_tqdm=True,
        report_to="none",
    )


@contextlib.contextmanager
def _main_process_first() -> Iterator[None]:
    """The other processes wait until the main process has written the files that they then read."""
    from accelerate import PartialState

    with PartialState(cpu=not torch.cuda.is_available()).main_process_first():
        yield


@contextlib.contextmanager
def _no_saving_bars() -> Iterator[None]:
    """Without the progress bar that transformers shows for every file it saves; the setting is restored."""
    from transformers.utils import logging as transformers_logging

    enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            transformers_logging.enable_progress_bar()


def _claim_folder(run: Path, config: TrainConfig) -> None:
    """Write the configuration into `run`, or check that the run in this folder has the same configuration.

    Before its first checkpoint the configuration of a run may change.

    Raises:
        InputError: if the folder holds a run of another configuration, or checkpoints of another program.
    """
    path = run / CONFIG_FILE
    hint = "delete the file if the run has no checkpoints, or choose another folder with -o"
    existing = build_train_config(read_object(path, hint=hint)) if path.exists() else None
    if existing is None and any(run.glob("checkpoint-*")):
        # these checkpoints have no mark, so `remove_incomplete` would delete them
        raise InputError(
            f"{str(run)!r} holds checkpoints that were not written by `sparsing train`; choose another folder with -o"
        )
    run_checkpoints.remove_incomplete(run)
    if existing == config:
        return
    if existing is None or run_checkpoints.find_resumable(run) is None:
        shutil.rmtree(run / "tokenizer", ignore_errors=True)
        write_text(path, json.dumps(config.to_dict(), indent=1) + "\n")
        return
    ours, theirs = _flatten(config.to_dict()), _flatten(existing.to_dict())
    key = next(key for key in (*ours, *theirs) if ours.get(key) != theirs.get(key))
    raise InputError(
        f"the run in {str(run)!r} has {key} = {theirs.get(key)!r}, this configuration has {ours.get(key)!r};"
        " choose another folder with -o, or remove that run"
    )


@contextlib.contextmanager
def _full_disk_is_an_error(run: Path) -> Iterator[None]:
    """Raises InputError if a library fails inside the block while the disk is full.

    torch, safetensors and tokenizers report a failed write by classes and messages of their own.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        try:
            with tempfile.TemporaryFile(dir=run) as probe:
                probe.write(bytes(2**16))
                probe.flush()
        except OSError as full:
            raise InputError(
                f"cannot write into {str(run)!r}: {full}; free some space, and the same command resumes after the"
                " last checkpoint"
            ) from error
        raise


def _flatten(tables: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys to values; a table that is None keeps its name as the key."""
    rows = {name: table if isinstance(table, dict) else {"": table} for name, table in tables.items()}
    return {f"{name}.{key}".rstrip("."): value for name, row in rows.items() for key, value in row.items()}


def _prepare_tokenizer(config: TrainConfig, run: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in the run folder, which is copied there or trained if it is missing."""
    folder = run / "tokenizer"
    if not (folder / "tokenizer_config.json").exists():
        if source := config.tokenizer.path or (config.sparser.start if config.sparser else ""):
            tokenizer = open_tokenizer(source)
        else:
            data = config.data
            texts = (text for text, _ in read_texts(data.text, split=data.split, column=data.column))
            tokenizer = train_tokenizer(
                texts,
                config.model.vocab_size,
                config.model.context,
                sample_chars=config.tokenizer.sample_chars,
            )
        make_granite_config(config.model, tokenizer)  # checks that the vocabulary is large enough
        # the folder appears when all of its files are there, so a kill between two files does no harm
        partial = run / f".tokenizer{PARTIAL}"
        tokenizer.save_pretrained(partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)
    return open_tokenizer(folder)


def _prepare_windows(
    config: TrainConfig, schedule: StepSchedule, tokenizer: PreTrainedTokenizerBase, run: Path
) -> tuple[Windows, Windows | None]:
    """The training windows of all steps, and the held-out windows, which are None without held-out text."""
    data, context = config.data, config.model.context

    def token_ids(name: str, source: str, split: str, most: int) -> np.ndarray:
        texts = read_texts(source, split=split, column=data.column)
        key = {"text": source, "split": split, "column": data.column}
        return write_tokens(run / name, texts, tokenizer, most=most, key=key)

    tokens = schedule.tokens(schedule.steps)
    ids = token_ids("tokens.bin", data.text, data.split, max(tokens + context, MIN_TEXT_TOKENS))
    windows = Windows(ids, context, tokens // context, seed=config.training.seed)
    if not (data.heldout_source and data.heldout_tokens):
        return windows, None
    most = max(data.heldout_tokens, context)
    ids = token_ids("heldout.bin", data.heldout_source, data.heldout_split, most)
    return windows, Windows(ids, context, max(1, len(ids) // context), shuffle=False)
