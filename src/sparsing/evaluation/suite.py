"""Runs tasks at levels, one pair after the other, and keeps each as a file: a run that was cut off goes on.

A finished pair lies in `<folder>/<level>/<task>.json` with a digest of all that decides its figures; the same
pair asked for again is read, another one under the same name is run anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsing.base.provenance import made_now
from sparsing.base.results import write_text
from sparsing.errors import InputError
from sparsing.evaluation.changes import changes_of
from sparsing.evaluation.outcome import Evaluation, Level, TaskOutcome, rows_of
from sparsing.evaluation.scoring import first_metric, item_lines, part_outcome, score_of
from sparsing.evaluation.tasks.chance import chance_of
from sparsing.evaluation.tasks.templates import compiled_once
from sparsing.measuring.run_folder import fingerprint

if TYPE_CHECKING:
    from sparsing.evaluation.tasks.loading import LoadedTask, TaskLoader
    from sparsing.evaluation.tasks.paper_tasks import PaperTask
    from sparsing.models.loading import LoadedModel

logger = logging.getLogger(__name__)

_LOGITS_BYTES = 2**26
_CPU_BATCH = 16
_SEED = 1234


class Suite:
    """A model with the settings that all its tasks share."""

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
    ):
        """Args:
            limit: Items of each part to run; None for all.
            batch_size: Sequences at a time, `auto` or `auto:N` as in lm-eval; None decides by the device.
            max_length: Tokens of prompt and answer; None for the model's own.
            log_items: Also write prompts, answers and metrics of each item to `<level>/<task>.items.jsonl`.
            show_progress: Show lm-eval's progress bars, on stderr.

        Raises:
            InputError: a limit below 1.
        """
        from sparsing.evaluation.model.harness import sparsing_lm

        if limit is not None and limit < 1:
            raise InputError(f"--limit is a number of items, at least 1, got {limit}")
        if loaded.dtype == "float16" and loaded.model.device.type == "cpu":
            logger.warning("most CPUs multiply float16 several times slower than float32: --dtype float32")
        self.loader, self.folder, self.limit, self.log_items = loader, Path(folder), limit, log_items
        with quiet():
            self.lm = sparsing_lm()(loaded, batch_size=1, max_length=max_length, show_progress=show_progress)
        self.batch_size = batch_size or default_batch_size(loaded, self.lm.max_length)
        self._set_batch_size()
        self._model = fingerprint(loaded.model)

    def run(
        self,
        tasks: Sequence[PaperTask],
        levels: Sequence[Level],
        *,
        on_done: Callable[[TaskOutcome], None] = lambda outcome: None,
    ) -> Evaluation:
        """Every task at every level.

        Raises:
            InputError: levels of one name, thresholds for another model, a task that cannot run here.
        """
        names = [level.name for level in levels]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(f"two levels are called {twice[0]!r}; evaluate them in separate runs")
        for level in levels:
            if level.thresholds is not None:
                level.thresholds.for_sites(self.lm.loaded.sites)
        outcomes, chances = [], {}
        for paper in tasks:
            task = self._load(paper)
            chances[paper.name] = chance_of(task, self.limit)
            for level in levels:
                outcomes.append(self._outcome(task, level))
                on_done(outcomes[-1])
        return Evaluation(
            rows=rows_of(outcomes, chances),
            changes=changes_of(outcomes),
            limit=self.limit,
            harness_version=_harness_version(),
            provenance=made_now(**self.lm.loaded.provenance()),
        )

    @property
    def is_main(self) -> bool:
        """True in the one process that has results."""
        return self.lm.rank == 0

    def _load(self, paper: PaperTask) -> LoadedTask:
        with quiet():
            return self.loader.load(paper, self.lm.max_length)

    def _outcome(self, task: LoadedTask, level: Level) -> TaskOutcome:
        identity = self._identity(task, level)
        path = self.folder / level.slug / f"{task.paper.name}.json"
        items = path.with_suffix(".items.jsonl")
        if path.exists() and (items.exists() or not self.log_items):
            known = TaskOutcome.load(path)
            if known.identity == identity:
                return known
        begin = time.perf_counter()
        results = self._evaluate(task, level)
        if results is None:  # another process has them
            return _empty(task, level, identity)
        outcome = self._summed_up(task, level, identity, results, time.perf_counter() - begin)
        if self.log_items:
            write_text(items, "".join(item_lines(task, results)))
        outcome.save(path)
        return outcome

    def _evaluate(self, task: LoadedTask, level: Level) -> dict[str, Any] | None:
        """What `lm_eval` gives for the task, with its command's seeds."""
        from lm_eval.evaluator import evaluate  # pyright: ignore[reportMissingImports]

        self.lm.apply(level.thresholds)
        self._set_batch_size()
        _seed()
        for part in task.parts:
            part.set_fewshot_seed(seed=_SEED)
        try:
            with quiet(), compiled_once():
                return evaluate(  # pyright: ignore[reportReturnType]
                    lm=self.lm,
                    task_dict={"tasks": {part.task_name: part for part in task.parts}},
                    limit=self.limit,
                    bootstrap_iters=0,  # standard errors come from the items
                    confirm_run_unsafe_code=self.loader.allow_code_execution,
                )
        finally:
            self._activities = self.lm.activities()
            self.lm.apply(None)

    def _summed_up(
        self, task: LoadedTask, level: Level, identity: str, results: dict[str, Any], wall_sec: float
    ) -> TaskOutcome:
        parts = tuple(part_outcome(part.task_name, results) for part in task.parts)
        prefill, decode = self._activities or (None, None)
        columns = task.paper.columns or ((task.paper.name, first_metric(parts[0])),)
        return TaskOutcome(
            task=task.paper.name,
            group=task.paper.group,
            level=level.name,
            identity=identity,
            shots=int(results["n-shot"].get(parts[0].name) or 0),
            scores=tuple(score_of(title, metric, parts, results) for title, metric in columns),
            parts=parts,
            absent=task.absent,
            num_items=sum(part.num_items for part in parts),
            prefill=prefill,
            decode=decode,
            wall_sec=wall_sec,
        )

    def _set_batch_size(self) -> None:
        """Also forgets sizes that were found for another task."""
        size, _, schedule = str(self.batch_size).partition(":")
        if size != "auto" and not size.isdigit():
            raise InputError(f"--batch-size is a number, auto or auto:N, got {self.batch_size!r}")
        self.lm.batch_size_per_gpu = size if size == "auto" else int(size)
        self.lm.batch_schedule, self.lm.batch_sizes = float(schedule or 1), {}

    def _identity(self, task: LoadedTask, level: Level) -> str:
        import torch
        import transformers

        thresholds = level.thresholds
        cut = thresholds.identity if thresholds is not None else None
        loaded = self.lm.loaded
        settings = (self.limit, self.batch_size, self.lm.max_length, loaded.dtype, loaded.device)
        versions = (_harness_version(), torch.__version__, transformers.__version__)
        digest = hashlib.sha256(repr((self._model, cut, task.paper, settings, versions)).encode())
        for part in task.parts:
            config = {k: v for k, v in part.dump_config().items() if k != "custom_dataset"}
            digest.update(json.dumps(config, sort_keys=True, default=_name).encode())
            for document in part.eval_docs:
                digest.update(json.dumps(document, sort_keys=True, default=str).encode())
        return digest.hexdigest()


def _seed() -> None:
    """As the `lm_eval` command does before it builds prompts."""
    import random

    import torch

    random.seed(0)
    np.random.seed(_SEED)
    torch.manual_seed(_SEED)


def default_batch_size(loaded: LoadedModel, max_length: int) -> int | str:
    """`auto` on a GPU, where lm-eval tries what fits; elsewhere by the size of the logits."""
    if loaded.model.device.type == "cuda":
        return "auto"
    vocab = loaded.model.config.get_text_config().vocab_size
    return max(1, min(_CPU_BATCH, _LOGITS_BYTES // (4 * vocab * max_length)))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without lm-eval's log, and with what it prints on stderr; the caller's settings come back."""
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


def _name(value: Any) -> str:
    """A function by its name: its address differs from run to run."""
    return getattr(value, "__qualname__", None) or type(value).__qualname__


def _empty(task: LoadedTask, level: Level, identity: str) -> TaskOutcome:
    return TaskOutcome(
        task=task.paper.name,
        group=task.paper.group,
        level=level.name,
        identity=identity,
        shots=0,
        scores=(),
        parts=(),
        absent=task.absent,
        num_items=0,
        prefill=None,
        decode=None,
        wall_sec=0.0,
    )


def _harness_version() -> str:
    import lm_eval  # pyright: ignore[reportMissingImports]

    return lm_eval.__version__
