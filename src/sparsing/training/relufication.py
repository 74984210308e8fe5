"""ReLU-fication: another activation in a trained model, to be trained on (ReLU Strikes Back, arXiv 2310.04564).

    relufy(model)               # or relufy(model, "relu2")
    model.save_pretrained(...)  # the configuration says so too: from_pretrained gives the same model

This is stage 1 of the paper, the activation of the feed-forward blocks. Quality returns with further training.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from transformers.activations import ACT2FN

from sparsing.errors import InputError
from sparsing.sites.discovery import find_sites, model_type

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

_FIELDS = ("hidden_act", "hidden_activation", "activation_function", "activation")
"""What configurations call the activation."""


def relufy(model: PreTrainedModel, hidden_act: str = "relu") -> PreTrainedModel:
    """Give every feed-forward block of `model` this activation, in place; the configuration changes with it.

    Sites and a `LoadedModel` that were made before hold the old activations: make them again.

    Args:
        hidden_act: A name that transformers knows, without parameters of its own: `relu`, `relu2`, `silu`, ...

    Returns: `model`.

    Raises:
        UnsupportedModelError: no family knows the model.
        InputError: an unknown activation, or a model type whose activation is not set by its configuration, or
            sets that of other parts too; the model is as it was.
    """
    blocks = [site.block for site in find_sites(model)]
    _check_name(hidden_act)
    config = copy.deepcopy(model.config)
    _set(config, hidden_act)
    with torch.device("meta"):
        wanted = type(model)(config)
    replaced = {name: module for name, module in wanted.named_modules() if _differs(model, name, module)}
    _check_blocks(model, wanted, blocks, hidden_act, replaced)
    for name, module in replaced.items():
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, module)
    _set(model.config, hidden_act)
    return model


def _check_name(hidden_act: str) -> None:
    if hidden_act not in ACT2FN or any(True for _ in ACT2FN[hidden_act].parameters()):
        known = ", ".join(sorted(name for name in ACT2FN if "xielu" not in name))
        raise InputError(f"unknown activation {hidden_act!r}, or one with parameters; known: {known}")


def _check_blocks(
    model: PreTrainedModel, wanted: nn.Module, blocks: list[str], hidden_act: str, replaced: Iterable[str]
) -> None:
    """Raise InputError where the configuration sets the activation of more than the blocks, or not of all of them."""
    other = [name for name in replaced if not any(name.startswith(f"{block}.") for block in blocks)]
    if other:
        raise InputError(
            f"{model_type(model)}: its configuration sets the activation of {other[0]} too, which is no feed-forward"
            " block; change that model's modules by hand"
        )
    kind = type(ACT2FN[hidden_act])
    for block in blocks:
        if not any(type(module) is kind for module in wanted.get_submodule(block).modules()):
            raise InputError(
                f"{model_type(model)} does not take its activation from the configuration; relufy cannot change it in"
                " a way that save_pretrained keeps"
            )


def _set(config: Any, hidden_act: str) -> None:
    text = config.get_text_config()
    for name in _FIELDS:
        if isinstance(getattr(text, name, None), str):
            setattr(text, name, hidden_act)


def _differs(model: nn.Module, name: str, wanted: nn.Module) -> bool:
    return type(model.get_submodule(name)) is not type(wanted)
