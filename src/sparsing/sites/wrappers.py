"""The causal LM inside a wrapper: of `torch.compile`, of data parallelism, or of PEFT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from sparsing.errors import UnsupportedModelError

if TYPE_CHECKING:
    from torch import nn

_NOT_IN_LAYERS = ("XLORA", "POLY")
"""Kinds of PEFT adapter that need the forward of the wrapper."""


def unwrapped(model: nn.Module) -> nn.Module:
    """The model that a wrapper calls. Adapters of PEFT that change layers stay in these layers.

    Raises:
        UnsupportedModelError: If the adapter adds virtual tokens or acts only through its wrapper.
    """
    while (inner := _inner(model)) is not None:
        model = inner
    return model


def _inner(model: Any) -> nn.Module | None:
    if type(model).__name__ in ("OptimizedModule", "DistributedDataParallel", "DataParallel"):
        return cast("nn.Module", model._orig_mod if hasattr(model, "_orig_mod") else model.module)
    if not (hasattr(model, "get_base_model") and hasattr(model, "peft_config")):
        return None
    for config in cast("dict[str, Any]", model.peft_config).values():
        kind = str(getattr(config.peft_type, "value", config.peft_type))
        acts_elsewhere = config.is_prompt_learning or kind in _NOT_IN_LAYERS
        if acts_elsewhere or getattr(config, "alora_invocation_tokens", None):
            raise UnsupportedModelError(
                f"a {kind} adapter does not act in the layers of the model alone, so its activations are not measured;"
                " adapters that change layers are supported, such as LoRA"
            )
    return cast("nn.Module", model.get_base_model())
