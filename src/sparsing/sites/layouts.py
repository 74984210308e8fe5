"""Sites from a `Layout`: the attribute names under which a model type keeps its feed-forward blocks.

The files in `families/` describe model types by layouts and register them here. `discovery.py` uses the
registry, so it imports this module and `families/`, and nothing here imports either.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, cast

from sparsing.base.registry import Registry
from sparsing.errors import UnsupportedModelError
from sparsing.sites.site import Site

if TYPE_CHECKING:
    import torch
    from torch import nn

    FindSites = Callable[[nn.Module], list[Site]]

FAMILIES: Registry[FindSites] = Registry("model type")
"""Model type to the function that finds its sites."""


def register_family(*model_types: str) -> Callable[[FindSites], FindSites]:
    """Registers the decorated function for these model types; it returns a model's sites in layer order.

    Args:
        model_types: Values of `config.model_type`.
    """

    def register(find: FindSites) -> FindSites:
        for model_type in model_types:
            FAMILIES.register(model_type, find)
        return find

    return register


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Where a model type keeps its feed-forward blocks, as attribute names."""

    layers: str
    """Dotted path of the list of layers, e.g. `model.layers`."""
    ffn: str
    """Dotted path of the block inside a layer; empty if the projections are attributes of the layer itself."""
    down_proj: str
    """Attribute of the block: the projection whose input is `h`."""
    act: str | None = None
    """Attribute of the block: the activation module whose output is `gate`; None if `gate` is `h`."""
    transposed: bool = False
    """True if `down_proj.weight` is stored `(d_ff, d_model)`, as in `Conv1D`."""
    projections: tuple[str, ...] = ()
    """Attributes of the block: `gate_proj` and `up_proj`, or the one module that holds both, gate first."""

    def but(self, **changes: str) -> Layout:
        """A copy of the layout with these fields changed."""
        return dataclasses.replace(self, **changes)


def model_type(model: nn.Module) -> str:
    """`model.config.model_type`, or the name of the class if the model has no such config."""
    return getattr(getattr(model, "config", None), "model_type", None) or type(model).__name__


def sites_at(model: nn.Module, layout: Layout) -> list[Site]:
    """The sites that `layout` describes, in layer order.

    Raises:
        UnsupportedModelError: If a module is missing, if two blocks share an activation module, or if the weights are
            quantized.
    """
    try:
        layers = model.get_submodule(layout.layers)
        sites = [_site(model, f"{layout.layers}.{name}", layout) for name, _ in layers.named_children()]
    except AttributeError as error:
        raise unsupported_model(
            model, f"{type(model).__name__} is not as its family expects ({error})"
        ) from error
    for site in sites:
        if site.weight.ndim != 2 or not is_plain(site.weight):
            raise UnsupportedModelError(
                f"{site.block}: down_proj.weight is {site.weight.dtype} {tuple(site.weight.shape)}, but it"
                " must be a matrix of float32, float64, bfloat16 or float16; load a checkpoint that is not quantized"
            )
    # a hook on a shared activation module could not know which block it runs for
    acts = [id(site.gate_act) for site in sites if site.gate_act is not None]
    if len(set(acts)) < len(acts):
        raise unsupported_model(model, f"{type(model).__name__} shares one activation module between layers")
    return sites


def _site(model: nn.Module, layer: str, layout: Layout) -> Site:
    block = f"{layer}.{layout.ffn}" if layout.ffn else layer
    module = model.get_submodule(block)
    number = re.search(r"\d+$", layer)
    assert number is not None, f"{layer} is not an entry of a list of layers"
    return Site(
        name=f"{block}.{layout.down_proj}",
        layer=int(number.group()),
        block=block,
        down_proj=module.get_submodule(layout.down_proj),
        gate_act=module.get_submodule(layout.act) if layout.act else None,
        transposed=layout.transposed,
        projections=tuple(module.get_submodule(name) for name in layout.projections),
    )


def is_plain(weight: torch.Tensor) -> bool:
    """Whether a weight holds its own values, in at least 16 bits."""
    # a float8 weight counts as quantized: it is multiplied by scales that are kept elsewhere
    return weight.is_floating_point() and weight.dtype.itemsize >= 2


def unsupported_model(model: nn.Module, what: str) -> UnsupportedModelError:
    """The error for a model whose sites are not found; its message shows the module tree of one layer."""
    tree = "\n".join(_module_tree(model))
    return UnsupportedModelError(
        f"{what}. Its modules, one layer of them:\n{tree}\nAdd the model type to the file of its shape in"
        " src/sparsing/sites/families/, or a new src/sparsing/sites/families/<shape>.py; see CONTRIBUTING.md."
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


def named_modules(model: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """`model.named_modules()`, which PyTorch annotates incompletely."""
    return cast("Iterable[tuple[str, nn.Module]]", model.named_modules())
