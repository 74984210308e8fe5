"""Translates a MiniCPM configuration to Granite, so that MiniCPM checkpoints are loaded without remote code.

Both architectures have the same modules and weight names and differ only in the names of four scalars. The ten
published Sparsing Law checkpoints are MiniCPM. MiniCPM (Hu et al. 2024, arXiv 2404.06395) scales embeddings,
residual branches and logits as muP requires.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from sparsing.errors import UnsupportedModelError

if TYPE_CHECKING:
    from transformers import GraniteConfig

_SAME_NAME = (
    "attention_bias",
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "hidden_act",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "pad_token_id",
    "rms_norm_eps",
    "vocab_size",
)


def granite_config(config: dict[str, Any]) -> GraniteConfig:
    """The Granite configuration that computes the same function as this MiniCPM configuration.

    `embedding_multiplier = scale_emb`, `residual_multiplier = scale_depth / sqrt(num_hidden_layers)`,
    `logits_scaling = hidden_size / dim_model_base`, `attention_multiplier = head_dim ** -0.5`. Missing keys get the
    defaults of the reference's configuration class, which include a tied head. Unknown keys are ignored.

    Raises:
        UnsupportedModelError: If the checkpoint has experts or latent attention, which Granite does not have.
    """
    from transformers import GraniteConfig

    for key in ("ffn_type", "attention_type"):
        if config.get(key, "vanilla") != "vanilla":
            raise UnsupportedModelError(
                f"MiniCPM with {key}={config[key]!r} is not supported, only 'vanilla'; give another checkpoint"
            )
    same = {key: config[key] for key in _SAME_NAME if config.get(key) is not None}
    hidden_size, num_layers = config.get("hidden_size", 4096), config.get("num_hidden_layers", 32)
    head_dim = hidden_size // config.get("num_attention_heads", 32)
    return GraniteConfig(
        **same,
        dtype=config.get("dtype") or config.get("torch_dtype"),
        embedding_multiplier=float(config.get("scale_emb", 1)),
        residual_multiplier=config.get("scale_depth", 1) / math.sqrt(num_layers),
        logits_scaling=hidden_size / config.get("dim_model_base", 1),
        attention_multiplier=head_dim**-0.5,
        tie_word_embeddings=config.get("tie_word_embeddings", True),
        rope_parameters=_rope(config),
    )


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """The rotary embedding in the format of transformers 5, from the older keys `rope_theta` and `rope_scaling`."""
    scaling = dict(config.get("rope_scaling") or {})
    kind = scaling.pop("type", None) or scaling.pop("rope_type", None) or "default"
    return {**scaling, "rope_type": kind, "rope_theta": float(config.get("rope_theta", 10000.0))}
