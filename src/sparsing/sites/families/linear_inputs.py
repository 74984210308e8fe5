"""Linear inputs: the input of every linear of a layer, such as `q k v o gate up down` of Llama (TEAL, WINA, SCAP).

If an entry of the input is zero, the column of the weight that it is multiplied by need not be read. Linears that share
one input, such as `q_proj` and `k_proj`, are sites of their own, since a rule may drop other entries for each of them.
The linears are found by class, so the function works for every model whose feed-forward blocks are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn
from transformers.pytorch_utils import Conv1D

from sparsing.sites.module_tree import named_modules
from sparsing.sites.site import Site

if TYPE_CHECKING:
    import torch


def linear_input_sites(model: nn.Module, blocks: Sequence[Site]) -> list[Site]:
    """The linear inputs of all layers, by layer and then in the order of the model's modules.

    Args:
        blocks: The feed-forward sites of the model, which say where the layers are.
    """
    layers: dict[str, list[Site]] = {}
    for block in blocks:
        # the path of the layer ends with its number, e.g. `model.layers.3`
        parts = block.name.split(".")
        layers.setdefault(".".join(parts[: parts.index(str(block.layer)) + 1]), []).append(block)
    return [site for layer, own in layers.items() for site in _of_layer(model, layer, own)]


def _of_layer(model: nn.Module, layer: str, blocks: Sequence[Site]) -> list[Site]:
    linears = {
        f"{layer}.{path}": module
        for path, module in named_modules(model.get_submodule(layer))
        if isinstance(module, nn.Linear | Conv1D) and _can_be_cut(module.weight)
    }
    in_block = {name for block in blocks for name in _in_block(list(linears), layer, block)}
    return [
        Site(
            name=name,
            layer=blocks[0].layer,
            block=name.rpartition(".")[0],
            kind="linear_input",
            down_proj=module,
            transposed=isinstance(module, Conv1D),
            in_block=name in in_block,
        )
        for name, module in linears.items()
    ]


def _in_block(names: list[str], layer: str, block: Site) -> set[str]:
    """Which of these linears belong to the feed-forward block."""
    if block.block != layer:
        return {name for name in names if name.startswith(f"{block.block}.")}
    # the layer holds the projections itself, as in OPT: the one before `down_proj` is the first projection
    down = names.index(block.name)
    return set(names[down - 1 : down + 1])


def _can_be_cut(weight: torch.Tensor) -> bool:
    # a weight of one byte or less per entry is quantized
    return weight.ndim == 2 and weight.is_floating_point() and weight.dtype.itemsize >= 2
