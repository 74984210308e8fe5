"""Every use of lm-eval that its documentation does not promise to keep, gathered in this one file.

lm-eval is the harness that defines the tasks and computes the scores. This package needs more of it than its public
interface offers: the index of task definitions, the metrics of a task, and the steps between "score these requests"
and the forward pass. When a new version of lm-eval breaks something, this is the file to adapt. lm-eval is optional:
it is imported inside the functions, so this module can be imported without it.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from sparsing.base.extras import install_command
from sparsing.errors import InputError
from sparsing.evaluation.model.dealing import deal

if TYPE_CHECKING:
    import torch
    from jinja2 import Environment
    from lm_eval.api.task import ConfigurableTask

    HFLM = Any  # the type checker sees no methods of the real class, because a decorator of lm-eval hides its type
else:
    HFLM = object  # lm-eval may be missing here; `make_model_class` puts the real class behind `HarnessModel`

TESTED_VERSIONS = ">=0.4.13,<0.5"
"""Versions of lm-eval that the extra `sparsing[eval]` allows. The tests run with 0.4.13."""

Request = tuple[Any, list[int], list[int]]
"""A text to score: lm-eval's key, the token ids of the prompt and those of the continuation."""


def is_installed() -> bool:
    """Whether lm-eval can be imported."""
    return importlib.util.find_spec("lm_eval") is not None


def require_lm_eval() -> None:
    """Raise `InputError` if lm-eval is not installed."""
    if not is_installed():
        raise InputError(f"this needs lm-eval, which is not installed: {install_command('eval')}")


def harness_version() -> str:
    """The version of the installed lm-eval."""
    import lm_eval

    return lm_eval.__version__


def task_folder() -> Path:
    """The folder with lm-eval's own task definitions."""
    from lm_eval import tasks

    return Path(tasks.__file__).parent


class TaskDefinitions:
    """The names of tasks, groups and tags that the YAML files of some folders define."""

    def __init__(self, folders: Iterable[Path]):
        """Later folders take precedence over earlier ones."""
        from lm_eval.tasks._index import TaskIndex

        # The public `TaskManager` always reads the whole task folder, which takes ten seconds.
        self._index = TaskIndex.build(folders)

    def __contains__(self, name: object) -> bool:
        return name in self._index

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def members(self, name: str) -> list[str] | None:
        """The names that a group or a tag stands for; None for a single task."""
        entry = self._index[name]
        if entry.kind.name == "GROUP":
            assert entry.cfg is not None
            return [member if isinstance(member, str) else member["task"] for member in entry.cfg["task"]]
        return sorted(entry.tags) if entry.kind.name == "TAG" else None

    def config(self, name: str, *, resolve_functions: bool) -> dict[str, Any]:
        """The configuration of a task as its YAML file says, with the files that it includes.

        Args:
            resolve_functions: Replace references such as `!function utils.f` by the function. This imports the
                helper modules of the task.
        """
        from lm_eval.tasks._yaml_loader import load_yaml

        path = self._index[name].yaml_path
        assert path is not None, f"{name} has no YAML file"
        return load_yaml(path, resolve_func=resolve_functions)

    def build(self, name: str) -> ConfigurableTask:
        """lm-eval's object for a single task; fetches the items of the task."""
        from lm_eval.tasks._factory import TaskFactory

        return cast("ConfigurableTask", TaskFactory().build(self._index[name], registry=self._index))


def metric_functions(task: Any) -> list[Any]:
    """The functions that compute the metrics of a task."""
    # lm-eval keeps the bound `__call__` of some functions; their globals hang on the function itself
    return [getattr(metric, "__self__", metric) for metric in task._metric_fn_list.values()]


def template_environment() -> Environment:
    """The Jinja environment with which lm-eval renders the prompts of all tasks."""
    from lm_eval.utils import env

    return env


class HarnessModel(HFLM):
    """lm-eval's `HFLM` with its protected steps as events that a subclass may override.

    Use it through `make_model_class`, which puts `HFLM` behind it. All events do nothing by default, so an
    unchanged `HarnessModel` computes exactly what `HFLM` computes.
    """

    def set_batch_size(self, size: int | str, schedule: float) -> None:
        """Sequences per forward, or `auto`; forgets the sizes that `auto` found for an earlier task.

        Args:
            schedule: How often `auto` searches again within a task.
        """
        self.batch_size_per_gpu = size
        self.batch_schedule, self.batch_sizes = schedule, {}

    def use_accelerator(self, accelerator: Any) -> None:
        """Share the items out over the processes of `accelerator`.

        `HFLM` does this only for models that it has loaded itself.
        """
        self.accelerator = accelerator
        self._rank, self._world_size = accelerator.process_index, accelerator.num_processes

    def fit_requests(self, requests: list[Request]) -> list[Request]:
        """Event: the texts that are about to be scored; the returned texts are scored instead."""
        return requests

    def before_scoring(self) -> None:
        """Event: a forward pass over a batch of texts begins."""

    def after_scoring(self, shape: tuple[int, int]) -> None:
        """Event: the forward pass has ended; its input had the shape `(sequences, tokens)`."""

    def on_selection(self, num_tokens: int) -> None:
        """Event: logits of the next sequence of the batch are selected; it has `num_tokens` without padding."""

    def generate_with(
        self,
        generate: Callable[[], torch.Tensor],
        prompts: torch.Tensor,
        attention_mask: torch.Tensor,
        stop: list[str],
    ) -> torch.Tensor:
        """Event: a batch of prompts is to be continued; returns what `generate` returns.

        Args:
            generate: Runs the generation; returns prompts and new tokens, shape `(sequences, tokens)`.
            prompts: Token ids, padded on the left, shape `(sequences, prompt tokens)`.
            attention_mask: 1 for the tokens of the prompts, 0 for padding, shape `(sequences, prompt tokens)`.
            stop: Texts at which a sequence ends.
        """
        return generate()

    def after_requests(self, requests: list[Request], log_likelihoods: list[float]) -> None:
        """Event: texts were scored.

        Args:
            requests: The texts.
            log_likelihoods: Of the continuation of each text.
        """

    def _loglikelihood_tokens(self, requests: list[Request], **options: Any) -> Any:
        fitted = self.fit_requests(requests)
        compute = functools.partial(super()._loglikelihood_tokens, **options)
        if self._is_dealt and not options.get("override_bs"):
            # `HFLM` runs requests that differ in their last token only once
            results = deal(
                fitted,
                compute,
                size=self.batch_size,
                order=lambda request: (-len(request[1] + request[2]), request[1] + request[2]),
                entry=(lambda request: tuple(request[1] + request[2][:-1])) if self.logits_cache else None,
            )
        else:
            results = compute(fitted)
        self.after_requests(fitted, [value for value, _ in results])
        return results

    @property
    def _is_dealt(self) -> bool:
        """Whether several processes share batches; if lm-eval looks for the batch size, each forms its own batches."""
        return self.world_size > 1 and self.batch_size != "auto"

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        def compute(some: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
            instances = [types.SimpleNamespace(args=args) for args in some]
            return generate(instances, disable_tqdm=disable_tqdm)

        generate = super().generate_until
        if not self._is_dealt:
            return generate(requests, disable_tqdm=disable_tqdm)
        # lm-eval repeats the last request so that all processes have the same number
        unique = list({id(request): request for request in requests}.values())
        found = deal(
            [request.args for request in unique],
            compute,
            size=self.batch_size,
            order=lambda args: (-len(self.tok_encode(args[0])), args[0]),
            part=lambda args: repr(args[1]),
        )
        answers = dict(zip(map(id, unique), found, strict=True))
        return [answers[id(request)] for request in requests]

    def _model_call(self, inps: torch.Tensor, **options: Any) -> torch.Tensor:
        self.before_scoring()
        logits = super()._model_call(inps, **options)
        self.after_scoring((inps.shape[0], inps.shape[1]))
        return logits

    def _select_cont_toks(
        self, logits: torch.Tensor, contlen: int | None = None, inplen: int | None = None
    ) -> torch.Tensor:
        assert inplen is not None, "only decoder-only models are supported"
        self.on_selection(inplen)
        return super()._select_cont_toks(logits, contlen=contlen, inplen=inplen)

    def _model_generate(
        self, context: torch.Tensor, max_length: int, stop: list[str], **options: Any
    ) -> torch.Tensor:
        generate = functools.partial(super()._model_generate, context, max_length, stop, **options)
        return self.generate_with(generate, context, options["attention_mask"], stop)


Mixin = TypeVar("Mixin", bound=HarnessModel)


def make_model_class(name: str, mixin: type[Mixin]) -> type[Mixin]:
    """A class of models for lm-eval: `mixin` in front of lm-eval's `HFLM`.

    Raises:
        InputError: if lm-eval is not installed.
    """
    require_lm_eval()
    from lm_eval.models.huggingface import HFLM as Harness

    members = {"__module__": mixin.__module__, "__doc__": mixin.__doc__}
    return cast("type[Mixin]", type(name, (mixin, Harness), members))


def register_model(name: str, target: str) -> None:
    """Make lm-eval know a class of models by `name`.

    Args:
        target: `module:class`; lm-eval imports the module when it makes such a model.
    """
    from lm_eval.api.registry import model_registry

    # This import registers lm-eval's own models. lm-eval does it by itself only while the registry is empty.
    importlib.import_module("lm_eval.models")
    if name not in model_registry:
        model_registry.register(name, target=target)
