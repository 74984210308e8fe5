"""muP as MiniCPM has it (Hu et al. 2024, arXiv 2404.06395, table 2): a Granite model, and its parameter groups.

With the width ratio `m = d_model / dim_model_base`, a hidden matrix starts with deviation `init_std / sqrt(m)` and
learns at `lr / m`; embeddings are multiplied by `scale_emb`, residual branches by `scale_depth / sqrt(n_layers)`,
logits divided by `m`. The standard parametrization sets every one of these to 1 and keeps one rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sparsing.errors import InputError

if TYPE_CHECKING:
    from transformers import GraniteConfig, GraniteForCausalLM, PreTrainedTokenizerBase

    from sparsing.training.config import ModelTable, TrainingTable


def make_granite_config(model: ModelTable, tokenizer: PreTrainedTokenizerBase | None = None) -> GraniteConfig:
    """The Granite configuration of this shape; with a tokenizer, its size and special tokens.

    Raises:
        InputError: an activation that transformers does not know, a tokenizer larger than the vocabulary.
    """
    from transformers import GraniteConfig
    from transformers.activations import ACT2FN

    if model.hidden_act not in ACT2FN:
        raise InputError(
            f"model.hidden_act must be one of {', '.join(sorted(ACT2FN))}, got {model.hidden_act!r}"
        )
    if tokenizer is not None and len(tokenizer) > model.vocab_size:
        raise InputError(
            f"model.vocab_size {model.vocab_size} is below the {len(tokenizer)} entries of the tokenizer; raise it"
        )
    scaled = model.parametrization == "mup"
    config = GraniteConfig(
        vocab_size=model.vocab_size,
        hidden_size=model.d_model,
        intermediate_size=model.d_ff,
        num_hidden_layers=model.n_layers,
        num_attention_heads=model.n_heads,
        num_key_value_heads=model.n_kv_heads,
        hidden_act=model.hidden_act,
        max_position_embeddings=model.context,
        initializer_range=model.init_std,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        embedding_multiplier=model.scale_emb if scaled else 1.0,
        residual_multiplier=model.scale_depth / math.sqrt(model.n_layers) if scaled else 1.0,
        logits_scaling=model.width_ratio,
        attention_multiplier=(model.d_model // model.n_heads) ** -0.5,
    )
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, name, getattr(tokenizer, name, None))
    return config


def build_granite(
    model: ModelTable, seed: int, tokenizer: PreTrainedTokenizerBase | None = None
) -> GraniteForCausalLM:
    """A new model, float32; the caller's random state is left as it was."""
    from transformers import GraniteForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        built = GraniteForCausalLM(make_granite_config(model, tokenizer)).float()
        for name, weight in built.named_parameters():
            if weight.ndim == 2:
                scale = model.width_ratio**-0.5 if _hidden(name) else 1.0
                nn.init.normal_(weight, std=model.init_std * scale)
    if not torch.cuda.is_available():
        built.set_attn_implementation("eager")  # in bfloat16 on a CPU faster than the fused kernel
    return built


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]], width_ratio: float, training: TrainingTable
) -> list[dict[str, Any]]:
    """AdamW's groups: embeddings and norms at `lr`, hidden matrices at `lr / m`; norms have no weight decay."""
    learning = [(name, weight) for name, weight in named if weight.requires_grad]
    matrices = [(name, weight) for name, weight in learning if not _norm(name)]
    groups = [
        {"params": [w for name, w in matrices if not _hidden(name)], "lr": training.lr},
        {"params": [w for name, w in matrices if _hidden(name)], "lr": training.lr / width_ratio},
        {"params": [w for name, w in learning if _norm(name)], "lr": training.lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _hidden(name: str) -> bool:
    """Matrices between two layers of the model's width: all but the embedding and the tied head."""
    return "embed" not in name and "lm_head" not in name and not _norm(name)


def _norm(name: str) -> bool:
    return "norm" in name or name.endswith(".bias")
