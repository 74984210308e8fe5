"""Names and shapes of a model's modules, and the error that shows them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, cast

from sparsing.errors import UnsupportedModelError

if TYPE_CHECKING:
    from torch import nn


def model_type(model: nn.Module) -> str:
    """`model.config.model_type`, or the name of the class if the model has no such config."""
    return getattr(getattr(model, "config", None), "model_type", None) or type(model).__name__


def named_modules(model: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """`model.named_modules()`, which PyTorch annotates incompletely."""
    return cast("Iterable[tuple[str, nn.Module]]", model.named_modules())


def unsupported_model(model: nn.Module, what: str) -> UnsupportedModelError:
    """The error for a model whose sites are not found; its message shows the module tree of one layer."""
    tree = "\n".join(_module_tree(model))
    return UnsupportedModelError(
        f"{what}. Its modules, one layer of them:\n{tree}\nIf they form a feed-forward block, add its form to"
        " src/sparsing/sites/matching.py; see CONTRIBUTING.md."
    )


def _module_tree(model: nn.Module, limit: int = 40) -> Iterator[str]:
    """Lines `path: Class (weight shape)` of the first layer, or of the whole model if it has no list of layers."""
    lists = (name for name, module in named_modules(model) if type(module).__name__ == "ModuleList")
    layer = next((f"{name}.0" for name in lists if list(model.get_submodule(name).children())), None)
    root, prefix = (model.get_submodule(layer), layer) if layer else (model, type(model).__name__)
    for count, (path, module) in enumerate(named_modules(root)):
        if count == limit:
            yield "  ..."
            return
        shapes = [f"{n} {tuple(p.shape)}" for n, p in module.named_parameters(recurse=False)]
        yield f"  {prefix}{'.' if path else ''}{path}: {type(module).__name__} {', '.join(shapes)}".rstrip()
