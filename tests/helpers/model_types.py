"""Small random models of every causal-LM type that transformers has, made from its own configuration classes.

`small_model(model_type)` sets every size that the configuration has to a small number. `OVERRIDES` holds what this rule
does not get right. `scripts/model_table.py` and `tests/sites/test_model_types.py` test the properties of
`model_properties.py` on them.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from sparsing.models.architecture import auto_class

VOCAB = 128
N_LAYERS = 4
MOST_PARAMETERS = 20_000_000

SAMPLE = (
    *("apertus", "bamba", "bart", "bert", "bitnet", "bloom", "ctrl", "deepseek_v4", "exaone", "falcon_h1"),
    *(
        "fuyu",
        "gemma3n_text",
        "gemma4_text",
        "glm4",
        "gpt2",
        "granitemoehybrid",
        "internlm3",
        "jamba",
        "lfm2",
    ),
    *(
        "minicpm3",
        "modernbert-decoder",
        "moshi",
        "nemotron_h",
        "olmo_hybrid",
        "openai-gpt",
        "opt",
        "phi4_multimodal",
    ),
    *("qwen3_5", "recurrent_gemma", "rwkv"),
)
"""Thirty types for the default suite: each form of block, hybrids, and composite models."""


def _sizes(value: int, names: str) -> dict[str, int]:
    return dict.fromkeys(names.split(), value)


SIZES: dict[str, int] = {
    **_sizes(
        32,
        "hidden_size d_model n_embd embedding_size word_embed_proj_dim attention_hidden_size mamba_d_ssm lru_width",
    ),
    **_sizes(
        48,
        "intermediate_size ffn_dim ffn_hidden_size n_inner decoder_ffn_dim encoder_ffn_dim dff dim_ff d_ff d_inner"
        " mlp_dim shared_intermediate_size moe_intermediate_size shared_expert_intermediate_size intermediate_size_mlp"
        " moe_shared_expert_intermediate_size shared_experts_intermediate_size expert_ffn_hidden_size",
    ),
    **_sizes(
        N_LAYERS,
        "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_decoder_layers"
        " num_encoder_layers conf_num_hidden_layers num_blocks depth",
    ),
    **_sizes(
        4,
        "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads attention_heads"
        " swa_num_attention_heads linear_num_heads linear_num_value_heads mamba_n_heads mamba_num_heads"
        " conf_num_attention_heads num_experts n_routed_experts num_local_experts moe_num_experts mamba_dt_rank"
        " rotary_dim",
    ),
    **_sizes(
        2,
        "num_key_value_heads swa_num_key_value_heads linear_num_key_heads num_kv_heads kv_n_heads o_groups"
        " num_global_key_value_heads num_experts_per_tok num_experts_per_token moe_topk moe_k moe_top_k top_k_experts"
        " index_n_heads eos_token_id sep_token_id eod_token_id",
    ),
    **_sizes(
        1, "n_group num_expert_group topk_group n_groups mamba_n_groups mamba_expand first_k_dense_replace"
    ),
    **_sizes(1, "bos_token_id decoder_start_token_id"),
    "pad_token_id": 0,
    **_sizes(
        8,
        "head_dim dim_head swa_head_dim global_head_dim linear_key_head_dim linear_value_head_dim linear_head_dim"
        " qk_nope_head_dim qk_rope_head_dim v_head_dim index_head_dim kv_channels attention_head_dim d_kv"
        " swa_v_head_dim mamba_d_head mamba_head_dim indexer_head_dim hidden_size_per_layer_input index_topk"
        " mamba_d_state state_size ssm_state_size",
    ),
    **_sizes(
        16,
        "qk_head_dim q_lora_rank kv_lora_rank o_lora_rank sliding_window window_size attention_window_size"
        " mamba_chunk_size chunk_size patch_size",
    ),
    "image_size": 32,
    **_sizes(64, "max_position_embeddings n_positions n_ctx max_seq_len"),
    **_sizes(VOCAB, "vocab_size vocab_size_per_layer_input unpadded_vocab_size"),
    **_sizes(120, "image_token_id image_token_index"),
    **_sizes(121, "video_token_id"),
    **_sizes(122, "audio_token_id"),
    **_sizes(123, "boi_token_id boi_token_index vision_start_token_id"),
    **_sizes(124, "eoi_token_id eoi_token_index vision_end_token_id"),
    **_sizes(125, "boa_token_id"),
    **_sizes(126, "eoa_token_id eoa_token_index"),
}
"""Name of a field of a configuration to its small value."""

_MLA = {"num_key_value_heads": 4}
_MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}}
_LATENT_ATTENTION = (
    *("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa"),
    *("longcat_flash", "minicpm3", "sarvam_mla", "youtu"),
)
_ENCODERS = (
    *(
        "bert",
        "bert-generation",
        "big_bird",
        "camembert",
        "data2vec-text",
        "electra",
        "ernie",
        "megatron-bert",
    ),
    *("rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta", "xlm-roberta-xl"),
)
_ALTERNATE = ["linear_attention", "full_attention"] * (N_LAYERS // 2)
_GEMMA4 = {"num_kv_shared_layers": 0}
_QSA = {
    **{"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8},
    **{"indexer_budget": 64, "indexer_compress_ratio": 4},
}

OVERRIDES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(_LATENT_ATTENTION, _MLA),
    **{name: {"is_decoder": True} for name in _ENCODERS},
    "deepseek_v2": {"num_experts_per_tok": 2, **_MLA},
    # attention to few tokens: their choice changes by rounding, so all tokens are chosen
    **{name: {"index_topk": 64, **_MLA} for name in ("axk2", "deepseek_v32", "glm_moe_dsa")},
    **{
        name: {"text_config": _MROPE}
        for name in ("qwen2_5_vl", "glm4v", "glm4v_moe", "glm46v", "paddleocr_vl")
    },
    "qwen2_vl": {"text_config": _MROPE, "vision_config": {"embed_dim": 32, "hidden_size": 32, "depth": 1}},
    **{name: {"text_config": _MLA} for name in ("kimi_k25", "mistral4", "mistral_large4")},
    "bailing_hybrid": {"layer_group_size": 2, **_MLA},
    "bamba": {"attn_layer_indices": [1, 3]},
    "granitemoehybrid": {"layer_types": _ALTERNATE},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {"layer_types": _ALTERNATE, **_MLA},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "ministral": {"head_dim": 8},
    "nemotron": {"head_dim": 8, "num_key_value_heads": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "gpt_neo": {"num_layers": 4, "attention_types": [[["global", "local"], 2]]},
    "reformer": {
        "attn_layers": ["local"] * 4,
        "axial_pos_embds": False,
        "num_hidden_layers": 4,
        "feed_forward_size": 48,
        "is_decoder": True,
        "attention_head_size": 8,
    },
    "xlm": {"emb_dim": 32, "n_words": VOCAB, "causal": True},
    "gemma3n_text": {"num_kv_shared_layers": 0, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "gemma4_text": _GEMMA4,
    "gemma4_unified_text": _GEMMA4,
    "gemma4": {"text_config": _GEMMA4},
    "gemma4_unified": {"text_config": _GEMMA4},
    "zamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "n_mamba_heads": 2, "mamba_expand": 2},
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "mamba_expand": 2,
        "n_mamba_heads": 4,
        "mamba_headdim": 16,
        "attention_head_dim": 16,
        "attention_hidden_size": 64,
    },
    "dots1": {"num_local_experts": 4, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "qwen4_exp_text": _QSA,
    "qwen4_exp": {"text_config": _QSA},
    "zaya": {"num_experts_per_tok": 1},
    "xmod": {"is_decoder": True, "languages": ["en_XX"], "default_language": "en_XX"},
}


def model_types() -> list[str]:
    """All model types with a causal language-model head, in alphabetical order."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def composite_types() -> list[str]:
    """Vision-language types without a causal-LM class of their own, in alphabetical order."""
    return sorted(
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.keys() - MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys()
    )


def small_config(cls: Any, overrides: dict[str, Any] | None = None) -> Any:
    """A configuration of this class with small sizes, also in the configurations inside it."""
    values = dict(overrides or {})
    try:
        default = cls()
    except Exception:  # some classes have no valid default
        default = None
    known = set(inspect.signature(cls.__init__).parameters) | set(
        vars(default) if default is not None else ()
    )
    for base in cls.__mro__:
        known |= set(getattr(base, "__annotations__", {}))
    small = {}
    for name in known & set(SIZES):
        absent = default is not None and _get(default, name) is None
        if name not in getattr(cls, "attribute_map", {}) and not (absent and name != "pad_token_id"):
            small[name] = SIZES[name]
    for name, inner in (getattr(cls, "sub_configs", {}) or {}).items():
        given, own = values.pop(name, None), getattr(default, name, None)
        inner = type(own) if own is not None else inner
        if getattr(inner, "__name__", "AutoConfig") != "AutoConfig":
            small[name] = small_config(inner, given)
    return cls(**small | values)


def _get(config: Any, name: str) -> Any:
    try:
        return getattr(config, name, None)
    except Exception:  # fields that differ between layers cannot be read from the whole configuration
        return 0


class TooManyParametersError(ValueError):
    """A model type that is too large for tests also with small sizes."""


def small_model(model_type: str, **overrides: Any) -> PreTrainedModel:
    """A random model in eval mode, float32; noise makes every bias and every activation non-zero.

    Args:
        overrides: Values of the configuration that replace the small ones.

    Raises:
        TooManyParametersError: If the model would have more than `MOST_PARAMETERS` parameters.
        Exception: What transformers raises if the small configuration does not work.
    """
    config = small_config(CONFIG_MAPPING[model_type], OVERRIDES.get(model_type, {}) | overrides)
    with torch.device("meta"):
        size = sum(p.numel() for p in auto_class(config).from_config(config).parameters())
    if size > MOST_PARAMETERS:
        raise TooManyParametersError(
            f"it has {size:,} parameters with small sizes, more than {MOST_PARAMETERS:,}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = auto_class(config).from_config(config, dtype=torch.float32)
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


def small_input(batch: int, length: int, *, seed: int = 0) -> torch.Tensor:
    """Random token ids of plain text, shape `(batch, length)`."""
    return torch.randint(3, 100, (batch, length), generator=torch.Generator().manual_seed(seed))
