"""Which architecture a checkpoint means, and whether it is a causal LM whose sites are known."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sparsing.errors import InputError, UnsupportedModelError
from sparsing.models.minicpm import granite_config
from sparsing.sites.discovery import find_sites

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def configuration(folder: Path, raw: dict[str, Any], trust_remote_code: bool) -> PreTrainedConfig:
    """The configuration object of a causal LM; `raw` is its `config.json`.

    Raises:
        InputError: the values do not make a configuration.
        UnsupportedModelError: transformers does not know the model type, or it is not a causal LM.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    model_type = raw["model_type"]
    if model_type not in CONFIG_MAPPING and model_type != "minicpm" and not trust_remote_code:
        raise UnsupportedModelError(
            f"transformers does not know the model type {model_type!r}; update transformers, or pass"
            " trust_remote_code=True if you have read and trust the checkpoint's own code"
        )
    try:
        if model_type == "minicpm":
            config = granite_config(raw)
        else:
            config = AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=trust_remote_code and "auto_map" in raw
            )
    except (OSError, ValueError, TypeError, KeyError, StrictDataclassError) as error:
        if isinstance(error, UnsupportedModelError):
            raise
        raise InputError(
            f"config.json in {str(folder)!r} is not a {model_type} configuration: {error}"
        ) from error
    if why := _not_causal(config, raw):
        raise UnsupportedModelError(
            f"{str(folder)!r} is not a causal language model ({why}); give a decoder such as llama or opt"
        )
    return config


def _not_causal(config: PreTrainedConfig, raw: dict[str, Any]) -> str | None:
    """Why the checkpoint cannot predict the next token; None where it can."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    model_type = config.model_type
    for architecture in raw.get("architectures") or []:
        head = architecture.partition("For")[2]
        if head and head not in ("CausalLM", "ConditionalGeneration"):
            return f"architecture {architecture}"
    if config.is_encoder_decoder:
        return f"{model_type} is an encoder-decoder"
    if model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        return f"{model_type} is an encoder"
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and "auto_map" not in raw:
        return f"transformers has no causal head for {model_type}"
    return None


def check_architecture(config: PreTrainedConfig, trust_remote_code: bool) -> None:
    """Find the sites on a model that has no memory, so that an unknown architecture costs no loading.

    Raises:
        UnsupportedModelError: no family knows the model type.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        find_sites(AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code))
