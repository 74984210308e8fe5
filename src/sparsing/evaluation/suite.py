"""Runs tasks at levels, one pair after the other, and saves each pair, so that an interrupted run can continue.

A finished pair is the file `<folder>/<level>/<task>.json`. It contains a digest of everything that decides its figures.
When the same pair is requested again, the file is read. A file with another digest is replaced by a new run, and a
warning says what has changed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsing.base.provenance import made_now
from sparsing.base.results import write_text
from sparsing.errors import InputError
from sparsing.evaluation.changes import changes_of
from sparsing.evaluation.level import Level
from sparsing.evaluation.model.lm_eval_internals import harness_version
from sparsing.evaluation.outcome import Evaluation, TaskOutcome, rows_of
from sparsing.evaluation.scoring import columns_of, item_lines, part_outcome, score_of
from sparsing.evaluation.tasks.chance import chance_of
from sparsing.evaluation.tasks.identity import definition_text, item_rows
from sparsing.evaluation.tasks.templates import compile_templates_once
from sparsing.models.identity import identify
from sparsing.rules.coverage import covered_sites

if TYPE_CHECKING:
    from sparsing.evaluation.model.activity import Activity
    from sparsing.evaluation.tasks.loading import LoadedTask, TaskLoader
    from sparsing.evaluation.tasks.paper_tasks import PaperTask
    from sparsing.models.loading import LoadedModel

logger = logging.getLogger(__name__)

_LOGITS_BYTES = 2**26
"""Upper limit on the logits of a batch on a CPU, in float32."""
_CPU_BATCH = 16
"""Largest batch on a CPU: more sequences gain nothing there."""
_SEED = 1234
"""The seed of lm-eval's command for numpy, torch and the choice of examples."""


@dataclasses.dataclass(frozen=True)
class _Run:
    """What one task at one level produced."""

    results: dict[str, Any]
    """The return value of lm-eval's `evaluate`."""
    activities: tuple[Activity, Activity] | None
    """Prefill, decode; None for the dense model."""
    wall_sec: float


class Suite:
    """A model, and the settings that all its tasks share."""

    def __init__(
        self,
        loaded: LoadedModel,
        loader: TaskLoader,
        *,
        folder: Path,
        limit: int | None = None,
        batch_size: int | str | None = None,
        max_length: int | None = None,
        log_items: bool = False,
        show_progress: bool = False,
        chat_template: bool = False,
        system_instruction: str | None = None,
    ):
        """Args:
            folder: Where the outcomes of tasks are saved.
            limit: Items of each part to run; None for all.
            batch_size: Sequences per batch, or `auto` or `auto:N` as in lm-eval; None chooses by the device.
            max_length: Tokens of prompt and answer together; None for the model's own length.
            log_items: Also write prompts, answers and metrics of each item to `<level>/<task>.items.jsonl`.
            show_progress: Show lm-eval's progress bars on stderr.
            chat_template: Put every prompt through the tokenizer's chat template; examples become earlier turns.
            system_instruction: Text before every prompt, with a chat template the message of the system.

        Raises:
            InputError: if the limit is below 1, the batch size is not valid, or the tokenizer has no chat template.
        """
        from sparsing.evaluation.model.harness import make_sparsing_lm

        if limit is not None and limit < 1:
            raise InputError(f"--limit is a number of items, at least 1, got {limit}")
        if chat_template and not loaded.tokenizer.chat_template:
            raise InputError(
                f"the tokenizer of {loaded.name!r} has no chat template; leave out --chat-template, or give the"
                " tokenizer of the chat model with --tokenizer"
            )
        self.chat_template, self.system_instruction = chat_template, system_instruction
        if loaded.dtype == "float16" and loaded.model.device.type == "cpu":
            logger.warning("most CPUs multiply float16 several times slower than float32: --dtype float32")
        self.loader, self.folder, self.limit, self.log_items = loader, Path(folder), limit, log_items
        with quiet_harness():
            self.lm = make_sparsing_lm()(
                loaded, batch_size=1, max_length=max_length, show_progress=show_progress
            )
        self.batch_size = batch_size or choose_batch_size(loaded, self.lm.max_length)
        self._set_batch_size()
        self._model = identify(loaded)

    def run(
        self,
        tasks: Sequence[PaperTask],
        levels: Sequence[Level],
        *,
        on_done: Callable[[TaskOutcome], None] = lambda outcome: None,
    ) -> Evaluation:
        """Run every task at every level.

        Args:
            tasks: From `TaskLoader.check`.
            levels: Their names must differ.
            on_done: Called with each outcome, as soon as it is saved.

        Raises:
            InputError: if two levels have the same name, thresholds are for another model, or a task cannot run
                here.
        """
        names = [level.name for level in levels]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(f"two levels are called {repeated[0]!r}; evaluate them in separate runs")
        for level in levels:
            if level.thresholds is not None:
                thresholds, loaded = level.thresholds, self.lm.loaded
                thresholds.for_sites(covered_sites(loaded.model, loaded.sites, thresholds.on))
        outcomes, chances = [], {}
        for paper in tasks:
            with quiet_harness():
                task = self.loader.load(paper, self.lm.max_length)
            chances[paper.name] = chance_of(task, self.limit)
            for level in levels:
                outcomes.append(self._outcome(task, level))
                on_done(outcomes[-1])
        return Evaluation(
            rows=rows_of(outcomes, chances),
            changes=changes_of(outcomes),
            limit=self.limit,
            harness_version=harness_version(),
            chat_template=self.chat_template,
            system_instruction=self.system_instruction,
            provenance=made_now(**self.lm.loaded.provenance()),
        )

    @property
    def is_main(self) -> bool:
        """True in the one process that has the results."""
        return self.lm.rank == 0

    def _outcome(self, task: LoadedTask, level: Level) -> TaskOutcome:
        """The saved outcome if its digest is right, else the outcome of a new run."""
        identity = self._identity(task, level)
        path = self.folder / level.slug / f"{task.paper.name}.json"
        items = path.with_suffix(".items.jsonl")
        saved = self._saved(path, identity)
        if saved is not None and (items.exists() or not self.log_items):
            return saved
        run = self._evaluate(task, level)
        outcome = _task_outcome(task, level, identity, run)
        if run is not None:
            if self.log_items:
                write_text(items, "".join(item_lines(task, run.results)))
            outcome.save(path)
        return outcome

    def _saved(self, path: Path, identity: dict[str, str]) -> TaskOutcome | None:
        """The outcome in the file if everything that decides its figures is equal; None, with a warning, if not."""
        if not path.exists():
            return None
        try:
            saved = TaskOutcome.load(path)
        except InputError as error:
            logger.warning("%s; the task runs again", error)
            return None
        if saved.identity == identity_digest(identity):
            return saved
        parts = [name for name, digest in identity.items() if saved.identity_parts.get(name) != digest]
        changed = ", ".join(parts) if saved.identity_parts else "the version of sparsing"
        logger.warning("%s is replaced by a new run, since these have changed: %s", path, changed)
        return None

    def _evaluate(self, task: LoadedTask, level: Level) -> _Run | None:
        """Run a task with the seeds of lm-eval's command; None in a process without results (rank above 0)."""
        from lm_eval.evaluator import evaluate

        begin = time.perf_counter()
        self.lm.apply(level.thresholds)
        self._set_batch_size()
        _seed()
        for part in task.parts:
            part.set_fewshot_seed(seed=_SEED)
        try:
            with quiet_harness(), compile_templates_once():
                results: Any = evaluate(
                    lm=self.lm,
                    task_dict={"tasks": {part.task_name: part for part in task.parts}},
                    limit=self.limit,
                    bootstrap_iters=0,  # standard errors come from the items
                    confirm_run_unsafe_code=self.loader.allow_code_execution,
                    apply_chat_template=self.chat_template,
                    fewshot_as_multiturn=self.chat_template,
                    system_instruction=self.system_instruction,
                )
            activities = self.lm.activities()
        finally:
            self.lm.apply(None)
        return _Run(results, activities, time.perf_counter() - begin) if results is not None else None

    def _set_batch_size(self) -> None:
        """Set the batch size anew for each task: the size that `auto` finds depends on the lengths of its texts."""
        size, _, schedule = str(self.batch_size).partition(":")
        if size != "auto" and not size.isdigit():
            raise InputError(f"--batch-size is a number, auto or auto:N, got {self.batch_size!r}")
        self.lm.set_batch_size(size if size == "auto" else int(size), float(schedule or 1))

    def _identity(self, task: LoadedTask, level: Level) -> dict[str, str]:
        """Digests of everything that decides the figures of a task at a level, by what it is."""
        import torch
        import transformers

        thresholds = level.thresholds
        cut = (thresholds.on, thresholds.select, thresholds.numbers) if thresholds is not None else None
        loaded = self.lm.loaded
        settings = (self.limit, self.batch_size, self.lm.max_length, loaded.dtype, loaded.device)
        if self.chat_template or self.system_instruction:  # else the outcomes of earlier versions stay valid
            template = loaded.tokenizer.chat_template if self.chat_template else None
            settings = (*settings, template, self.system_instruction)
        versions = (harness_version(), torch.__version__, transformers.__version__)
        return {
            **{f"model {name}": digest for name, digest in self._model.items()},
            "thresholds": _digest([repr(cut)]),
            "settings": _digest([repr(settings)]),
            "versions": _digest([repr(versions)]),
            "task definition": _digest([repr(task.paper), *map(definition_text, task.parts)]),
            "items": _digest(row for part in task.parts for row in item_rows(part)),
        }


def identity_digest(parts: dict[str, str]) -> str:
    """One digest of all parts of an identity."""
    return _digest(f"{name} {digest}" for name, digest in parts.items())


def _digest(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{len(text)} {text}".encode("utf-8", "backslashreplace"))
    return digest.hexdigest()


def _task_outcome(task: LoadedTask, level: Level, identity: dict[str, str], run: _Run | None) -> TaskOutcome:
    """The outcome of a run; without a run an outcome that has no scores."""
    parts = [part_outcome(part.task_name, run.results) for part in task.parts] if run else []
    columns = [(title, metric, parts) for title, metric in task.paper.columns] if run else []
    if run and not columns:
        columns = columns_of(task.paper.name, parts)
    prefill, decode = (run and run.activities) or (None, None)
    return TaskOutcome(
        task=task.paper.name,
        group=task.paper.group,
        level=level.name,
        identity=identity_digest(identity),
        identity_parts=identity,
        shots=int(run.results["n-shot"].get(parts[0].name) or 0) if run else 0,
        scores=tuple(score_of(title, metric, own, run.results) for title, metric, own in columns)
        if run
        else (),
        parts=tuple(parts),
        absent=task.absent,
        num_items=sum(part.num_items for part in parts),
        prefill=prefill,
        decode=decode,
        wall_sec=run.wall_sec if run else 0.0,
    )


def _seed() -> None:
    """Seed all generators as lm-eval's command does before it builds prompts."""
    import random

    import torch

    random.seed(0)
    np.random.seed(_SEED)
    torch.manual_seed(_SEED)


def choose_batch_size(loaded: LoadedModel, max_length: int) -> int | str:
    """`auto` on a GPU, where lm-eval tries what fits; on a CPU by the bytes of the logits."""
    if loaded.model.device.type == "cuda":
        return "auto"
    vocab = loaded.model.config.get_text_config().vocab_size
    return max(1, min(_CPU_BATCH, _LOGITS_BYTES // (4 * vocab * max_length)))


@contextlib.contextmanager
def quiet_harness() -> Iterator[None]:
    """Inside the block lm-eval logs only errors and prints to stderr; afterwards the caller's settings are back.

    With `-v` lm-eval's log is kept. stdout is left to the tables and the JSON of the command.
    """
    import datasets

    harness = logging.getLogger("lm_eval")
    level, bars = harness.level, datasets.is_progress_bar_enabled()
    if not logger.isEnabledFor(logging.INFO):
        harness.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        harness.setLevel(level)
        if bars:
            datasets.enable_progress_bars()
