"""ReLU-fication: replaces the activation function of a trained model before further training.

    relufy(model)               # or relufy(model, "relu2")
    model.save_pretrained(...)  # the configuration is changed too, so from_pretrained gives the same model

This is stage 1 of ReLU Strikes Back (arXiv 2310.04564): the activation functions of the feed-forward blocks. The
quality of the model returns with further training.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from transformers.activations import ACT2FN

from sparsing.errors import InputError
from sparsing.sites.discovery import find_sites
from sparsing.sites.module_tree import model_type

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

_FIELDS = ("hidden_act", "hidden_activation", "activation_function", "activation")
"""Names that configurations of transformers have for the activation function."""


def relufy(model: PreTrainedModel, hidden_act: str = "relu") -> PreTrainedModel:
    """Set the activation function of every feed-forward block, in place in the model and in its configuration.

    Sites and a `LoadedModel` that were made before hold the old activation modules and must be made again.

    Args:
        hidden_act: A name that transformers knows, of a function without parameters: `relu`, `relu2`, `silu`, ...

    Returns: `model`.

    Raises:
        UnsupportedModelError: if the sites of the model are not found.
        InputError: if the activation function is unknown, or if the configuration of this model type does not set
            the activation function, or sets that of other parts too. The model is then not changed.
    """
    blocks = [site.block for site in find_sites(model)]
    _check_name(hidden_act)
    config = copy.deepcopy(model.config)
    _set_activation(config, hidden_act)
    # A model of the changed configuration, without weights, shows which modules the configuration decides.
    with torch.device("meta"):
        wanted = type(model)(config)
    replaced = {name: module for name, module in wanted.named_modules() if _differs(model, name, module)}
    _check_blocks(model, wanted, blocks, hidden_act, replaced)
    for name, module in replaced.items():
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, module)
    _set_activation(model.config, hidden_act)
    return model


def _check_name(hidden_act: str) -> None:
    if hidden_act not in ACT2FN or any(True for _ in ACT2FN[hidden_act].parameters()):
        known = ", ".join(sorted(name for name in ACT2FN if "xielu" not in name))
        raise InputError(
            f"hidden_act must be an activation function without parameters, got {hidden_act!r}; known: {known}"
        )


def _check_blocks(
    model: PreTrainedModel, wanted: nn.Module, blocks: list[str], hidden_act: str, replaced: Iterable[str]
) -> None:
    """Raise InputError unless the configuration sets the activation of all `blocks` and of nothing else."""
    other = [name for name in replaced if not any(name.startswith(f"{block}.") for block in blocks)]
    if other:
        raise InputError(
            f"the configuration of {model_type(model)} also sets the activation of {other[0]}, which is not a"
            " feed-forward block; replace the activation modules of this model by hand"
        )
    kind = type(ACT2FN[hidden_act])
    for block in blocks:
        if not any(type(module) is kind for module in wanted.get_submodule(block).modules()):
            raise InputError(
                f"{model_type(model)} does not take its activation from the configuration, so save_pretrained would"
                " lose the change; replace the activation modules of this model by hand"
            )


def _set_activation(config: Any, hidden_act: str) -> None:
    # the text configuration only: the vision part of a multimodal model keeps its activation
    text = config.get_text_config()
    for name in _FIELDS:
        if isinstance(getattr(text, name, None), str):
            setattr(text, name, hidden_act)


def _differs(model: nn.Module, name: str, wanted: nn.Module) -> bool:
    return type(model.get_submodule(name)) is not type(wanted)
