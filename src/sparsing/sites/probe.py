"""Runs a model on a few token ids and records what its modules compute, for discovery by structure.

`probing` is the only place that runs the model. It leaves the model as it was: hooks, training flags and the state of
the random generators. `matching.py` reads the records of a plain run, and `proof.py` plants values in a second run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, cast

import torch

from sparsing.errors import UnsupportedModelError
from sparsing.sites.compiled import uncompiled
from sparsing.sites.effective_weight import device_of
from sparsing.sites.module_tree import named_modules

if TYPE_CHECKING:
    from torch import nn

N_TOKENS = 12
"""Tokens of a run. `proof.py` gives each of them a role."""


@dataclasses.dataclass(eq=False)
class Calls:
    """The calls of one module in one run."""

    name: str
    module: nn.Module
    is_matrix: bool
    """True for `y = x @ W.T + b` or `y = x @ W + b`, as far as shapes tell."""
    order: int = 0
    """Place of the last call among the calls of all recorded modules."""
    count: int = 0
    x: torch.Tensor | None = None
    """Input of the last call, shape `(tokens, width)`; None if it does not have one row per token."""
    y: torch.Tensor | None = None
    """Output of the last call, shape `(tokens, width)`; None if it does not have one row per token."""


def matrix_shape(module: nn.Module) -> tuple[int, ...] | None:
    """Shape of the matrix by which a module multiplies, as it is stored; None if it multiplies by none.

    A linear with an adapter counts as one matrix, and so does a quantised linear, as `(outputs, inputs)`.
    """
    weight = getattr(module, "weight", None)
    features = (getattr(module, "out_features", None), getattr(module, "in_features", None))
    if isinstance(features[0], int) and isinstance(features[1], int) and getattr(weight, "ndim", 0) < 2:
        return features[0], features[1]
    if (
        not isinstance(weight, torch.Tensor)
        or weight.ndim != 2
        or type(module).__name__.endswith("Embedding")
    ):
        return None
    return tuple(weight.shape)


def matrices(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules that are a matrix, with their paths, without the parts of such a module, as an adapter has."""
    yield from ((name, module) for name, module in _whole_modules(model) if matrix_shape(module) is not None)


def _whole_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    inside = "\0"
    for name, module in named_modules(model):  # a module comes before its parts
        if name.startswith(inside):
            continue
        if matrix_shape(module) is not None:
            inside = f"{name}."
        yield name, module


def rows(value: Any) -> torch.Tensor | None:
    """A tensor as a copy of shape `(tokens, width)`; None for any other value."""
    if isinstance(value, (tuple, list)) and value:
        value = cast("Any", value[0])
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.ndim < 2:
        return None
    flat = value.detach().reshape(-1, value.shape[-1])
    return flat.clone() if len(flat) == N_TOKENS else None  # a copy, because some models add in place


def record(model: nn.Module) -> dict[str, Calls]:
    """The calls of matrices and of modules without a matrix in one run; modules that did not run are absent."""
    calls: dict[str, Calls] = {}
    counter = iter(range(10**9))

    def hook(call: Calls) -> Callable[..., None]:
        def see(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            call.order, call.count = next(counter), call.count + 1
            call.y = rows(output)
            calls[call.name] = call

        return see

    def hook_input(call: Calls) -> Callable[..., None]:
        def see(module: nn.Module, args: tuple[Any, ...]) -> None:
            call.x = rows(args)

        return see

    with probing(model) as forward:
        for name, module in _whole_modules(model):
            is_matrix = matrix_shape(module) is not None
            if name and (is_matrix or _holds_no_matrix(module)):
                call = Calls(name, module, is_matrix)
                module.register_forward_pre_hook(hook_input(call))
                module.register_forward_hook(hook(call))
        forward()
    return calls


def _holds_no_matrix(module: nn.Module) -> bool:
    return all(parameter.ndim < 2 for parameter in module.parameters())


@contextlib.contextmanager
def probing(model: nn.Module) -> Generator[Callable[[], None]]:
    """Yields a function that runs one forward of `N_TOKENS` token ids, without gradients and in eval mode.

    Inside, the model has no hooks but those that the caller sets. At the end these are gone, and the former hooks, the
    training flags and the state of the random generators are restored.

    Raises:
        UnsupportedModelError: By the function, if the forward raises an exception.
    """
    training = [module for module in model.modules() if module.training]
    hooks = [(vars(module), {name: vars(module)[name] for name in _HOOKS}) for module in model.modules()]
    devices = {p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"}
    with cast("Any", torch.random).fork_rng(devices=sorted(devices)), torch.no_grad(), uncompiled():
        try:
            for own, _ in hooks:
                own.update({name: OrderedDict() for name in _HOOKS})
            model.eval()
            yield lambda: _forward(model)
        finally:
            for own, former in hooks:
                own.update(former)
            for module in training:
                module.training = True


class EndOfProbe(Exception):
    """Raised by a hook to end a run: nothing behind it is needed."""


_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)
"""Attributes in which PyTorch keeps the forward hooks of a module."""


def _forward(model: nn.Module) -> None:
    parameters = inspect.signature(cast("Any", model).forward).parameters
    options = {"use_cache": False} if "use_cache" in parameters else {}
    try:
        ids = token_ids(model)
        with torch.autocast(ids.device.type, enabled=False):
            model(ids, **options)
    except EndOfProbe:
        return
    except Exception as error:  # the code of the model decides what it raises
        raise UnsupportedModelError(
            f"{type(model).__name__} cannot run on {N_TOKENS} token ids alone"
            f" ({type(error).__name__}: {str(error)[:200]}); give a causal language model that reads plain text"
        ) from error


def token_ids(model: nn.Module) -> torch.Tensor:
    """Token ids of text, shape `(1, N_TOKENS)`: none is a special token of the configuration, such as an image."""
    special = set(_special_ids(getattr(model, "config", None)))
    embedding = cast("Any", model).get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    weight = getattr(embedding, "weight", None)
    size = 128 if weight is None else int(weight.shape[0])
    plain = [i for i in range(3, min(size, 1000)) if i not in special] or [0]
    device = next(model.parameters()).device if embedding is None else device_of(embedding)
    return torch.tensor([(plain * N_TOKENS)[:N_TOKENS]], device=device)


def _special_ids(config: Any) -> Iterator[int]:
    for key, value in cast("dict[str, Any]", vars(config) if config is not None else {}).items():
        if hasattr(value, "to_dict"):
            yield from _special_ids(value)
        elif key.endswith(("_token_id", "_token_index")):
            yield from cast("list[Any]", value) if isinstance(value, (list, tuple)) else [value]
