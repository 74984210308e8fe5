"""Task objects of the harness: its own definitions, with local items, the paper's shots and sandboxed code."""

from __future__ import annotations

import dataclasses
import difflib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsing.errors import InputError
from sparsing.evaluation.code.code_eval import check_sandboxed, sandboxed_code_eval
from sparsing.evaluation.model.harness import require_lm_eval
from sparsing.evaluation.tasks import local_data
from sparsing.evaluation.tasks.paper_tasks import PAPER_TASKS, PaperTask, harness_task

if TYPE_CHECKING:
    from lm_eval.api.task import Task  # pyright: ignore[reportMissingImports]

logger = logging.getLogger(__name__)

_HARNESS_GEN_TOKS = 256
"""What `HFLM` generates where a task says nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LoadedTask:
    """A task ready to run."""

    paper: PaperTask
    parts: tuple[Task, ...]
    """The harness's task objects, in a fixed order."""
    absent: tuple[str, ...] = ()
    """Parts without local items."""

    @property
    def num_items(self) -> int:
        """Items of all parts, before any limit."""
        return sum(len(part.eval_docs) for part in self.parts)


class TaskLoader:
    """Finds and loads tasks by the paper's or the harness's names."""

    def __init__(
        self,
        *,
        task_data: Path | None = None,
        include_path: Path | None = None,
        allow_code_execution: bool = False,
        max_gen_toks: int | None = None,
    ):
        """Args:
            task_data: Folder with the items of each benchmark; None lets the harness fetch them.
            include_path: Folder with task definitions beside the harness's own.
            allow_code_execution: Load tasks that run generated programs.
            max_gen_toks: Most tokens to generate for an item; None leaves the harness's own number.

        Raises:
            InputError: lm-eval is not installed, no such folder.
        """
        require_lm_eval()
        for folder in (task_data, include_path):
            if folder is not None and not Path(folder).is_dir():
                raise InputError(f"no folder {str(folder)!r}; give the one that holds the tasks' files")
        self._include, self._data = include_path, task_data
        self.allow_code_execution = allow_code_execution
        self._max_gen_toks = max_gen_toks

    def check(self, names: Iterable[str]) -> list[PaperTask]:
        """The tasks of these names, without loading them; only these can be loaded afterwards.

        Raises:
            InputError: an unknown name, a name given twice, a task that runs code without leave.
        """
        names = list(names)
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(f"task {twice[0]} is given twice; give each once")
        self._index = _task_index(names, self._include)
        return [self._named(name) for name in names]

    def load(self, paper: PaperTask, max_length: int) -> LoadedTask:
        """Load a task for a model of `max_length` tokens.

        Raises:
            InputError: no local items, or a task that cannot run here.
        """
        with sandboxed_code_eval(self.allow_code_execution):
            parts, absent = self._parts(paper.parts)
            if not parts and paper.else_parts:
                parts, more = self._parts(paper.else_parts)
                absent += more
                taken = ", ".join(part.task_name for part in parts) or "nothing"
                logger.warning(
                    "%s: no local items of %s, taken: %s", paper.name, ", ".join(paper.parts), taken
                )
            elif parts and absent:
                logger.warning("%s: no local items of %s", paper.name, ", ".join(absent))
        if not parts:
            split = self._split(absent[0])
            where = local_data.looked_for(self._data or Path(), absent[0], split)
            raise InputError(f"task {paper.name}: no items for {absent[0]} in {where}")
        cut = [self._prepare(part, paper, max_length) for part in parts]
        if any(cut):
            logger.warning(
                "%s: generates at most %d tokens an item, the model has %d positions",
                paper.name,
                max(cut),
                max_length,
            )
        return LoadedTask(paper=paper, parts=tuple(parts), absent=tuple(absent))

    def _named(self, name: str) -> PaperTask:
        paper = PAPER_TASKS.get(name) or harness_task(name)
        if name not in PAPER_TASKS and name not in self._index:
            close = difflib.get_close_matches(name, [*PAPER_TASKS, *self._index], n=1)
            hint = f" Did you mean: {close[0]}?" if close else ""
            raise InputError(
                f"Unknown task {name!r}.{hint} The paper's: {', '.join(PAPER_TASKS)}; any task of lm-eval by"
                " its own name (`lm_eval ls tasks` lists them)."
            )
        if paper.runs_code and not self.allow_code_execution:
            raise _code_refused(name)
        return paper

    def _parts(self, names: Sequence[str]) -> tuple[list[Task], list[str]]:
        """Task objects, and the names of those without local items."""
        parts, absent = [], []
        for name in self._leaves(names):
            task = self._task(name)
            if task is None or not len(task.eval_docs):
                absent.append(name)
            else:
                parts.append(task)
        return parts, absent

    def _leaves(self, names: Iterable[str]) -> list[str]:
        """The single tasks that groups and tags stand for, in the harness's order, each once."""
        leaves: list[str] = []
        for name in names:
            entry = self._index[name]
            if entry.kind.name == "GROUP":
                members = entry.cfg["task"]
                leaves += self._leaves(one if isinstance(one, str) else one["task"] for one in members)
            else:
                leaves += sorted(entry.tags) if entry.kind.name == "TAG" else [name]
        return list(dict.fromkeys(leaves))

    def _split(self, name: str) -> str:
        cfg = self._config(name, resolve=False)
        return cfg.get("test_split") or cfg.get("validation_split") or "test"

    def _config(self, name: str, resolve: bool) -> dict[str, Any]:
        from lm_eval.tasks._yaml_loader import load_yaml  # pyright: ignore[reportMissingImports]

        return load_yaml(self._index[name].yaml_path, resolve_func=resolve)

    def _task(self, name: str) -> Task | None:
        """The harness's task; None where local items are asked for and there are none."""
        from lm_eval.tasks._factory import TaskFactory  # pyright: ignore[reportMissingImports]

        if self._data is not None:
            return self._local(name, self._data)
        return TaskFactory().build(self._index[name], registry=self._index)  # pyright: ignore[reportReturnType]

    def _local(self, name: str, folder: Path) -> Task | None:
        from lm_eval.api.task import ConfigurableTask  # pyright: ignore[reportMissingImports]

        cfg = self._config(name, resolve=True)
        keys = ("training_split", "validation_split", "test_split")
        wanted = {cfg[key] for key in (*keys, "fewshot_split") if cfg.get(key)}
        found = local_data.items(folder, name, sorted(wanted))
        if not found.get(self._split(name)):
            return None
        for key in (*keys, "fewshot_split"):
            if cfg.get(key) not in found:
                cfg.pop(key, None)
        for key in ("tag", "group", "task_list"):
            cfg.pop(key, None)
        return ConfigurableTask(config=cfg | {"custom_dataset": _dataset(found), "dataset_kwargs": None})

    def _prepare(self, part: Task, paper: PaperTask, max_length: int) -> int:
        """Check that it may run; set shots and tokens to generate, returned where the model is too short."""
        if getattr(part, "UNSAFE_CODE", False):
            if not self.allow_code_execution:
                raise _code_refused(paper.name)
            check_sandboxed(part)
        if paper.shots is not None:
            part.set_config(key="num_fewshot", value=paper.shots)
        if part.get_config("output_type") != "generate_until":
            return 0
        asked = (part.get_config("generation_kwargs") or {}).get("max_gen_toks", _HARNESS_GEN_TOKS)
        wanted = min(asked, self._max_gen_toks or asked)
        most = wanted if wanted < max_length else max_length // 2  # lm-eval stops where no prompt would fit
        if most != asked:
            part.set_config(key="generation_kwargs", value={"max_gen_toks": most}, update=True)
        return most if most != wanted else 0


def _task_index(names: Iterable[str], include_path: Path | None) -> dict[str, Any]:
    """The harness's index of task definitions, of the folders that the paper's tasks need or of all."""
    from lm_eval import tasks  # pyright: ignore[reportMissingImports]
    from lm_eval.tasks._index import TaskIndex  # pyright: ignore[reportMissingImports]

    root = Path(tasks.__file__).parent
    named = [PAPER_TASKS.get(name) for name in names]
    folders = {root / task.folder for task in named if task is not None}
    paths = [root] if None in named else sorted(folders)
    return TaskIndex.build([*paths, *([include_path] if include_path else [])])


def _dataset(found: dict[str, list[local_data.Row]]) -> Any:
    """What the harness calls for its dataset."""

    def local_items(**_: Any) -> Any:
        from datasets import Dataset, DatasetDict

        return DatasetDict({split: Dataset.from_list(rows) for split, rows in found.items()})

    return local_items


def _code_refused(name: str) -> InputError:
    return InputError(
        f"{name} runs programs that the model writes; allow it with --allow-code-execution (they run in a"
        " sandbox: no network, no files but their own, limited time and memory)"
    )
