"""Loads tasks for a run: lm-eval's own definitions with local items, the paper's shots and sandboxed code.

`TaskLoader.check` looks names up before a model is loaded. `TaskLoader.load` then returns a `LoadedTask`, whose parts
are lm-eval's own task objects.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsing.errors import InputError
from sparsing.evaluation.code.code_eval import check_sandboxed, sandboxed_code_eval
from sparsing.evaluation.model.lm_eval_internals import TaskDefinitions, require_lm_eval, task_folder
from sparsing.evaluation.tasks import local_data
from sparsing.evaluation.tasks.paper_tasks import PAPER_TASKS, PaperTask, harness_task

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask

logger = logging.getLogger(__name__)

_DEFAULT_GEN_TOKS = 256
"""The number of tokens that `HFLM` generates if a task does not set it."""
_SPLIT_KEYS = ("training_split", "validation_split", "test_split", "fewshot_split")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LoadedTask:
    """A task that is ready to run."""

    paper: PaperTask
    parts: tuple[ConfigurableTask, ...]
    """lm-eval's task objects, in a fixed order."""
    absent: tuple[str, ...] = ()
    """Names of parts without local items; they are left out."""

    @property
    def num_items(self) -> int:
        """Items of all parts, before any limit."""
        return sum(len(part.eval_docs) for part in self.parts)


class TaskLoader:
    """Finds and loads tasks by the names of the paper or of lm-eval."""

    def __init__(
        self,
        *,
        task_data: Path | None = None,
        include_path: Path | None = None,
        allow_code_execution: bool = False,
        max_gen_toks: int | None = None,
    ):
        """Args:
            task_data: Folder with the items of each benchmark; None lets lm-eval download them.
            include_path: Folder with task definitions in addition to lm-eval's own.
            allow_code_execution: Load tasks that run generated programs.
            max_gen_toks: Upper limit on the tokens generated for an item; None keeps the number of the task.

        Raises:
            InputError: if lm-eval is not installed or a folder does not exist.
        """
        require_lm_eval()
        for folder in (task_data, include_path):
            if folder is not None and not Path(folder).is_dir():
                raise InputError(
                    f"no folder {str(folder)!r}; give the folder that contains the files of the tasks"
                )
        self._include_path, self._data = include_path, task_data
        self.allow_code_execution = allow_code_execution
        self._max_gen_toks = max_gen_toks

    def check(self, names: Iterable[str]) -> list[PaperTask]:
        """Look tasks up by name without loading them. `load` accepts only tasks that were checked.

        Raises:
            InputError: if a name is unknown or given twice, or a task runs code and that is not allowed.
        """
        names = list(names)
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(f"task {repeated[0]} is given twice; give each task once")
        self._definitions = TaskDefinitions(self._folders(names))
        return [self._look_up(name) for name in names]

    def load(self, paper: PaperTask, max_length: int) -> LoadedTask:
        """Load a task for a model of `max_length` tokens.

        Raises:
            InputError: if there are no local items for the task, or the task cannot run here.
        """
        with sandboxed_code_eval(self.allow_code_execution):
            parts, absent = self._load_parts(paper.parts)
            if not parts and paper.else_parts:
                parts, more = self._load_parts(paper.else_parts)
                absent += more
                logger.warning(
                    "%s: no local items of %s; using %s instead",
                    paper.name,
                    ", ".join(paper.parts),
                    ", ".join(part.task_name for part in parts) or "nothing",
                )
            elif parts and absent:
                logger.warning("%s: no local items of %s", paper.name, ", ".join(absent))
        if not parts:
            places = local_data.describe_places(self._data or Path(), absent[0], self._item_split(absent[0]))
            raise InputError(f"task {paper.name}: no items for {absent[0]} in {places}")
        shortened = [self._prepare(part, paper, max_length) for part in parts]
        if any(shortened):
            logger.warning(
                "%s: generates at most %d tokens per item, because the model has %d positions",
                paper.name,
                max(shortened),
                max_length,
            )
        return LoadedTask(paper=paper, parts=tuple(parts), absent=tuple(absent))

    def _folders(self, names: Iterable[str]) -> list[Path]:
        """The folders that define these tasks."""
        root = task_folder()
        named = [PAPER_TASKS.get(name) for name in names]
        # Reading all of lm-eval's definitions takes ten seconds; the paper's tasks need a few folders of them.
        paths = (
            [root] if None in named else sorted({root / task.folder for task in named if task is not None})
        )
        return [*paths, *([self._include_path] if self._include_path else [])]

    def _look_up(self, name: str) -> PaperTask:
        paper = PAPER_TASKS.get(name) or harness_task(name)
        if name not in PAPER_TASKS and name not in self._definitions:
            close = difflib.get_close_matches(name, [*PAPER_TASKS, *self._definitions], n=1)
            hint = f" Did you mean: {close[0]}?" if close else ""
            raise InputError(
                f"Unknown task {name!r}.{hint} Tasks of the paper: {', '.join(PAPER_TASKS)}. Every task of lm-eval"
                " is available by its own name (`lm_eval ls tasks` lists them)."
            )
        if paper.runs_code and not self.allow_code_execution:
            raise _code_refused(name)
        return paper

    def _load_parts(self, names: Sequence[str]) -> tuple[list[ConfigurableTask], list[str]]:
        """Task objects, and the names of those without local items."""
        parts, absent = [], []
        for name in self._single_tasks(names):
            task = self._local_task(name, self._data) if self._data else self._definitions.build(name)
            if task is None or not len(task.eval_docs):
                absent.append(name)
            else:
                parts.append(task)
        return parts, absent

    def _single_tasks(self, names: Iterable[str]) -> list[str]:
        """The single tasks that groups and tags stand for, in lm-eval's order, each once."""
        leaves: list[str] = []
        for name in names:
            members = self._definitions.members(name)
            leaves += [name] if members is None else self._single_tasks(members)
        return list(dict.fromkeys(leaves))

    def _item_split(self, name: str) -> str:
        config = self._definitions.config(name, resolve_functions=False)
        return config.get("test_split") or config.get("validation_split") or "test"

    def _local_task(self, name: str, folder: Path) -> ConfigurableTask | None:
        """lm-eval's task on the items of local files; None if there is no file."""
        from lm_eval.api.task import ConfigurableTask

        config = self._definitions.config(name, resolve_functions=True)
        wanted = {config[key] for key in _SPLIT_KEYS if config.get(key)}
        rows = local_data.read_items(folder, name, sorted(wanted))
        if not rows.get(self._item_split(name)):
            return None
        for key in _SPLIT_KEYS:
            if config.get(key) not in rows:
                config.pop(key, None)
        for key in ("tag", "group", "task_list"):  # they belong to the definition and not to a task
            config.pop(key, None)
        return ConfigurableTask(
            config=config | {"custom_dataset": _dataset_maker(rows), "dataset_kwargs": None}
        )

    def _prepare(self, part: ConfigurableTask, paper: PaperTask, max_length: int) -> int:
        """Check that a part may run, and set its shots and the number of tokens to generate.

        Returns: That number if the model is too short for the number that was wanted, else 0.
        """
        if getattr(part, "UNSAFE_CODE", False):
            if not self.allow_code_execution:
                raise _code_refused(paper.name)
            check_sandboxed(part)
        if paper.shots is not None:
            part.set_config(key="num_fewshot", value=paper.shots)
        if part.get_config("output_type") != "generate_until":
            return 0
        default = (part.get_config("generation_kwargs") or {}).get("max_gen_toks", _DEFAULT_GEN_TOKS)
        wanted = min(default, self._max_gen_toks or default)
        # lm-eval fails if the tokens to generate leave no room for a prompt
        most = wanted if wanted < max_length else max_length // 2
        if most != default:
            part.set_config(key="generation_kwargs", value={"max_gen_toks": most}, update=True)
        return most if most != wanted else 0


def _dataset_maker(rows: dict[str, list[local_data.Item]]) -> Any:
    """The function that lm-eval calls to get the dataset of a task, by split."""

    def make_dataset(**_: Any) -> Any:
        from datasets import Dataset, DatasetDict

        return DatasetDict({split: Dataset.from_list(items) for split, items in rows.items()})

    return make_dataset


def _code_refused(name: str) -> InputError:
    return InputError(
        f"{name} runs programs that the model writes; allow it with --allow-code-execution (they run in a"
        " sandbox: no network, no files but their own, limited time and memory)"
    )
