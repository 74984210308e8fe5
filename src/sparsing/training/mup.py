"""Maximal update parametrization (muP) of MiniCPM: a new Granite model and its optimizer groups.

Source: Hu et al. 2024, arXiv 2404.06395, table 2. With the width ratio `m = d_model / dim_model_base`, a hidden matrix
starts with standard deviation `init_std / sqrt(m)` and learns at `lr / m`; embeddings are multiplied by `scale_emb`,
residual branches by `scale_depth / sqrt(n_layers)`, and logits are divided by `m`. The standard parametrization sets
all multipliers to 1 and has one learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from sparsing.errors import InputError

if TYPE_CHECKING:
    from transformers import (
        GraniteConfig,
        GraniteForCausalLM,
        GraniteMoeConfig,
        GraniteMoeForCausalLM,
        PreTrainedTokenizerBase,
    )

    from sparsing.training.config import ModelTable, TrainingTable


def make_granite_config(
    model: ModelTable, tokenizer: PreTrainedTokenizerBase | None = None
) -> GraniteConfig | GraniteMoeConfig:
    """The Granite configuration of this shape. A tokenizer adds its special tokens.

    Raises:
        InputError: if transformers does not know the activation function, or if the tokenizer has more entries than
            the vocabulary of the model.
    """
    from transformers import GraniteConfig, GraniteMoeConfig
    from transformers.activations import ACT2FN

    if model.hidden_act not in ACT2FN:
        raise InputError(
            f"model.hidden_act must be one of {', '.join(sorted(ACT2FN))}, got {model.hidden_act!r}"
        )
    if tokenizer is not None and len(tokenizer) > model.vocab_size:
        raise InputError(
            f"model.vocab_size = {model.vocab_size} is less than the {len(tokenizer)} entries of the tokenizer;"
            f" set it to {len(tokenizer)} or more"
        )
    mup = model.parametrization == "mup"
    experts: dict[str, Any] = {}
    if model.n_experts:
        experts = {
            "num_local_experts": model.n_experts,
            "num_experts_per_tok": model.top_k,
            "router_aux_loss_coef": model.router_loss,
        }
    config = (GraniteMoeConfig if experts else GraniteConfig)(
        **experts,
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
        embedding_multiplier=model.scale_emb if mup else 1.0,
        residual_multiplier=model.scale_depth / math.sqrt(model.n_layers) if mup else 1.0,
        logits_scaling=model.width_ratio,
        attention_multiplier=(model.d_model // model.n_heads) ** -0.5,
    )
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, name, getattr(tokenizer, name, None))
    return config


def build_granite(
    model: ModelTable, seed: int, tokenizer: PreTrainedTokenizerBase | None = None
) -> GraniteForCausalLM | GraniteMoeForCausalLM:
    """A new float32 model with random weights. The random state of the caller is not changed."""
    from transformers import GraniteForCausalLM, GraniteMoeForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = cast(
            "Any", make_granite_config(model, tokenizer)
        )  # the class depends on the number of experts
        built = (GraniteMoeForCausalLM if model.n_experts else GraniteForCausalLM)(config).float()
        for name, weight in built.named_parameters():
            if weight.ndim >= 2:  # the experts of a layer are one 3-D parameter
                scale = model.width_ratio**-0.5 if _is_hidden(name) else 1.0
                nn.init.normal_(weight, std=model.init_std * scale)
    if model.n_experts:
        built.register_forward_pre_hook(_add_router_loss_in_training, with_kwargs=True)
    if not torch.cuda.is_available():
        built.set_attn_implementation("eager")  # in bfloat16 on a CPU faster than the fused kernel
    return built


def _add_router_loss_in_training(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """The model adds the loss of the router if it returns the router's logits. A held-out loss is without it."""
    return args, kwargs | {"output_router_logits": module.training}


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]], width_ratio: float, training: TrainingTable
) -> list[dict[str, Any]]:
    """Groups for AdamW: embeddings and norms learn at `lr`, hidden matrices at `lr / m`; norms have no weight decay."""
    learning = [(name, weight) for name, weight in named if weight.requires_grad]
    matrices = [(name, weight) for name, weight in learning if not _is_norm(name)]
    groups = [
        {"params": [w for name, w in matrices if not _is_hidden(name)], "lr": training.lr},
        {"params": [w for name, w in matrices if _is_hidden(name)], "lr": training.lr / width_ratio},
        {"params": [w for name, w in learning if _is_norm(name)], "lr": training.lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]  # torch refuses an empty group


def _is_hidden(name: str) -> bool:
    """Whether both sides of the matrix grow with the width: all but the embedding and the head, which is tied to it."""
    return "embed" not in name and "lm_head" not in name and not _is_norm(name)


def _is_norm(name: str) -> bool:
    return "norm" in name or name.endswith(".bias")
