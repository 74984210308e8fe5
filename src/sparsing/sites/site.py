"""One view of every feed-forward block: where its `gate`, its `h` and its `down_proj` are.

`families/` holds one file per shape of block; each registers the model types it knows. Nothing else in the
package knows a model class.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from sparsing.base.registry import Registry
from sparsing.errors import UnsupportedModelError

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class FFNSite:
    """A feed-forward block of one layer: `y = down_proj(h)`, with `h = gate * up` or `h = act(up)`."""

    name: str
    """Dotted path of the block in the model, e.g. `model.layers.3.mlp`."""
    down_proj: nn.Module
    """The projection whose input is `h`: an `nn.Linear` or a `Conv1D`. Called once per forward."""
    gate_act: nn.Module | None = None
    """The activation module whose output is `gate`, of this block alone; None where `gate` is `h`."""
    transposed: bool = False
    """True when `down_proj.weight` is stored `(d_ff, d_model)`, as in `Conv1D`."""
    projections: tuple[nn.Module, ...] = ()
    """The `nn.Linear`s whose weights, stacked, are the rows of `gate_proj` and then of `up_proj`: two of them, or
    one where a family fuses both; empty where the family has no gate."""

    @property
    def weight(self) -> torch.Tensor:
        """`W` of `y = h @ W.T`, shape `(d_model, d_ff)`, a view of the module's own parameter."""
        weight: torch.Tensor = self.down_proj.weight  # pyright: ignore[reportAssignmentType]
        return weight.T if self.transposed else weight

    @property
    def bias(self) -> torch.Tensor | None:
        """Bias of `down_proj`, shape `(d_model,)`; no neuron's doing, so no measure counts it."""
        bias: torch.Tensor | None = self.down_proj.bias  # pyright: ignore[reportAssignmentType]
        return bias

    @property
    def d_model(self) -> int:
        return self.weight.shape[0]

    @property
    def d_ff(self) -> int:
        return self.weight.shape[1]

    def column_norms(self) -> torch.Tensor:
        """`||W[:, i]||_2` per neuron, shape `(d_ff,)`, float32."""
        return self.weight.detach().float().norm(dim=0)


FAMILIES: Registry[Callable[[nn.Module], list[FFNSite]]] = Registry("model type")


def register_family(*model_types: str) -> Callable[[Callable], Callable]:
    """Announce a function that finds the sites of these `config.model_type`s, in layer order."""

    def register(sites: Callable[[nn.Module], list[FFNSite]]) -> Callable[[nn.Module], list[FFNSite]]:
        for model_type in model_types:
            FAMILIES.register(model_type, sites)
        return sites

    return register


class Layout(NamedTuple):
    """Where a model type keeps its blocks, as attribute names."""

    layers: str
    """Dotted path of the list of layers, e.g. `model.layers`."""
    ffn: str
    """Dotted path of the block inside a layer; empty where its projections sit on the layer itself."""
    down_proj: str
    """Attribute of the block: the projection whose input is `h`."""
    act: str | None = None
    """Attribute of the block: the activation module whose output is `gate`; None where `gate` is `h`."""
    transposed: bool = False
    """True when `down_proj.weight` is stored `(d_ff, d_model)`, as in `Conv1D`."""
    projections: tuple[str, ...] = ()
    """Attributes of the block: `gate_proj` and `up_proj`, or the one module that holds both, gate first."""


def find_sites(model: nn.Module) -> list[FFNSite]:
    """The feed-forward blocks of a causal LM, in layer order.

    Raises:
        UnsupportedModelError: no family knows `model.config.model_type`, or the model's modules are not where
            its family expects them; the message shows the module tree that was seen.
    """
    importlib.import_module("sparsing.sites.families")
    name = model_type(model)
    if name not in FAMILIES:
        raise _unsupported(model, f"No family knows the model type {name!r}")
    return FAMILIES[name](model)


def model_type(model: nn.Module) -> str:
    """`model.config.model_type`, or the name of the class where there is no such config."""
    return getattr(getattr(model, "config", None), "model_type", None) or type(model).__name__


def sites_at(model: nn.Module, layout: Layout) -> list[FFNSite]:
    """The sites that `layout` describes, checked: every module is there, plain, and used by one block only.

    Raises:
        UnsupportedModelError: a module is missing or shared, or the weights are quantized.
    """
    try:
        layers = model.get_submodule(layout.layers)
        sites = [_site(model, f"{layout.layers}.{name}", layout) for name, _ in layers.named_children()]
    except AttributeError as error:
        raise _unsupported(model, f"{type(model).__name__} is not as its family expects ({error})") from error
    for site in sites:
        if site.weight.ndim != 2 or not _is_plain(site.weight):
            raise UnsupportedModelError(
                f"{site.name}: down_proj.weight is {site.weight.dtype} {tuple(site.weight.shape)}, wanted a"
                " matrix of float32, float64, bfloat16 or float16; load the checkpoint that is not quantized"
            )
    acts = [id(site.gate_act) for site in sites if site.gate_act is not None]
    if len(set(acts)) < len(acts):
        raise _unsupported(model, f"{type(model).__name__} shares one activation module between layers")
    return sites


def _site(model: nn.Module, layer: str, layout: Layout) -> FFNSite:
    name = f"{layer}.{layout.ffn}" if layout.ffn else layer
    block = model.get_submodule(name)
    return FFNSite(
        name=name,
        down_proj=block.get_submodule(layout.down_proj),
        gate_act=block.get_submodule(layout.act) if layout.act else None,
        transposed=layout.transposed,
        projections=tuple(block.get_submodule(name) for name in layout.projections),
    )


def _is_plain(weight: torch.Tensor) -> bool:
    return weight.is_floating_point() and weight.dtype.itemsize >= 2  # float8 comes with scales of its own


def _unsupported(model: nn.Module, what: str) -> UnsupportedModelError:
    tree = "\n".join(_module_tree(model))
    return UnsupportedModelError(
        f"{what}. Its modules, one layer of them:\n{tree}\nAdd the model type to the file of its shape in"
        " src/sparsing/sites/families/, or a new src/sparsing/sites/families/<shape>.py; see CONTRIBUTING.md."
    )


def _module_tree(model: nn.Module, limit: int = 40) -> Iterator[str]:
    """Lines `path: Class (weight shape)` of the first layer, or of the whole model where no list is found."""
    lists = (name for name, module in model.named_modules() if type(module).__name__ == "ModuleList")
    layer = next((f"{name}.0" for name in lists if list(model.get_submodule(name).children())), None)
    root, prefix = (model.get_submodule(layer), layer) if layer else (model, type(model).__name__)
    for count, (path, module) in enumerate(root.named_modules()):
        if count == limit:
            yield "  ..."
            return
        shapes = [f"{n} {tuple(p.shape)}" for n, p in module.named_parameters(recurse=False)]
        yield f"  {prefix}{'.' if path else ''}{path}: {type(module).__name__} {', '.join(shapes)}".rstrip()
