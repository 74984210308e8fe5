"""Tiny random models with routed experts: eight types whose experts differ in layout, router and activation."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from .tiny import VOCAB

N_EXPERTS = 4
TOP_K = 2
D_EXPERT = 24

_COMMON: dict[str, Any] = {
    **{"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "intermediate_size": D_EXPERT},
    **{"moe_intermediate_size": D_EXPERT, "num_experts_per_tok": TOP_K},
    **{"num_local_experts": N_EXPERTS, "num_experts": N_EXPERTS, "n_routed_experts": N_EXPERTS},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
_SHARED: dict[str, Any] = {"n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 2, "topk_group": 2}

SIZES: dict[str, dict[str, Any]] = {
    "deepseek_v3": {
        **{**_COMMON, **_SHARED},
        **{
            "q_lora_rank": 8,
            "kv_lora_rank": 8,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
        },
        **{"num_key_value_heads": 4},
    },
    "glm4_moe": _COMMON | _SHARED,
    "gpt_oss": _COMMON | {"sliding_window": 16, "swiglu_limit": 1.5},
    "llama4_text": {
        **_COMMON,
        **{"intermediate_size_mlp": 40, "interleave_moe_layer_step": 1, "attention_chunk_size": 32},
    },
    "mixtral": _COMMON,
    "nemotron_h": {
        **{**_COMMON, **_SHARED},
        **{"layers_block_type": ["mamba", "moe", "attention", "moe"], "num_hidden_layers": 4},
        **{"moe_shared_expert_intermediate_size": 16, "mamba_num_heads": 4, "mamba_head_dim": 8},
        **{"ssm_state_size": 8, "n_groups": 1, "chunk_size": 16},
    },
    "olmoe": _COMMON,
    "qwen3_moe": _COMMON,
}


def build_experts(
    model_type: str, *, dtype: torch.dtype = torch.float64, **overrides: Any
) -> PreTrainedModel:
    """A fresh random model in eval mode; noise makes every bias non-zero and the routing uneven."""
    config = AutoConfig.for_model(model_type, **(SIZES[model_type] | overrides))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    if dtype == torch.float64 and "grouped_mm" in model.get_experts_implementation().values():
        model.set_experts_implementation("eager")  # `grouped_mm` has no float64
    return model.eval()
