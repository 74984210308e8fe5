"""Decides which architecture a checkpoint has and whether it can be measured, before any weights are read.

A checkpoint can be measured if it is a causal language model whose layers hold matrices. `sites/discovery.py` proves
after loading what the blocks compute.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sparsing.errors import InputError, UnsupportedModelError
from sparsing.models.minicpm import granite_config
from sparsing.sites.discovery import check_structure

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def build_config(folder: Path, raw: dict[str, Any], trust_remote_code: bool) -> PreTrainedConfig:
    """The configuration object of a causal LM.

    Args:
        folder: Folder of the checkpoint.
        raw: The content of its `config.json`.
        trust_remote_code: Allow configuration classes that come with the checkpoint.

    Raises:
        InputError: If the values in `raw` are invalid for the model type.
        UnsupportedModelError: If transformers does not know the model type, or the model is not a causal LM.
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
            # without `auto_map` there is no remote code, and transformers would warn about the unused flag
            config = AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=trust_remote_code and "auto_map" in raw
            )
    except (OSError, ValueError, TypeError, KeyError, StrictDataclassError) as error:
        if isinstance(error, UnsupportedModelError):  # a ValueError too, and already a clear message
            raise
        raise InputError(
            f"config.json in {str(folder)!r} is not a valid {model_type} configuration: {error}; correct the file"
        ) from error
    if reason := _why_not_causal(config, raw):
        raise UnsupportedModelError(
            f"{str(folder)!r} is not a causal language model ({reason}); give a decoder such as llama or opt"
        )
    return config


def _why_not_causal(config: PreTrainedConfig, raw: dict[str, Any]) -> str | None:
    """The reason why the checkpoint cannot predict the next token, or None if it can."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
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
    known = (
        model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        or model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    )
    if not known and "auto_map" not in raw:
        return f"transformers has no causal head for {model_type}"
    return None


def auto_class(config: PreTrainedConfig) -> Any:
    """The class of transformers that builds the model: the causal LM, or else the vision-language model.

    A vision-language model is measured on text alone, which its text part reads as a causal LM."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    composite = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.keys() - MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys()
    return AutoModelForImageTextToText if config.model_type in composite else AutoModelForCausalLM


def check_architecture(config: PreTrainedConfig, trust_remote_code: bool) -> None:
    """Checks what can be known about the sites of the model without its weights.

    The model is built on the `meta` device, which allocates no memory, so an unsupported architecture is reported
    before any weights are read.

    Raises:
        UnsupportedModelError: If the model has routed experts that cannot be tapped, or no layer has a matrix.
    """
    with torch.device("meta"):
        check_structure(auto_class(config).from_config(config, trust_remote_code=trust_remote_code))
