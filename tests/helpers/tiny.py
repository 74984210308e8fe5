"""Tiny random models, one per registered model type: 2 layers, vocabulary 128, made from a config and a seed.

A model type joins every law test by an entry in `SIZES`; `tiny_model` is cached, so treat what it returns as
read-only or restore it.
"""

from __future__ import annotations

import functools
import string
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

VOCAB = 128
N_LAYERS = 2
D_FF = 96

_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_PLAIN = _COMMON | {"intermediate_size": D_FF}
_GROUPED = _PLAIN | {"num_key_value_heads": 2}
_HEAD_DIM = _GROUPED | {"head_dim": 8}
_GEMMA = _HEAD_DIM | {"query_pre_attn_scalar": 8, "sliding_window": 16}
_GPT = {
    **{key: _COMMON[key] for key in ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")},
    **{"n_embd": 32, "n_layer": N_LAYERS, "n_head": 4, "n_positions": 64, "n_inner": D_FF},
}
_VISION = {
    **{"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2},
    **{"image_size": 8, "patch_size": 4},
}

SIZES: dict[str, dict[str, Any]] = {
    "apertus": _GROUPED,
    "arcee": _GROUPED,
    "biogpt": _PLAIN,
    "bloom": _COMMON,
    "codegen": _GPT | {"rotary_dim": 4},
    "cohere": _GROUPED,
    "cohere2": _HEAD_DIM,
    "cwm": _HEAD_DIM,
    "diffllama": _HEAD_DIM,
    "ernie4_5": _HEAD_DIM,
    "exaone4": _HEAD_DIM,
    "falcon": _COMMON | {"ffn_hidden_size": D_FF, "new_decoder_architecture": False},
    "falcon_h1": _HEAD_DIM | {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8},
    "gemma": _HEAD_DIM,
    "gemma2": _GEMMA,
    "gemma3": {"text_config": _GEMMA, "vision_config": _VISION, "mm_tokens_per_image": 4},
    "gemma3_text": _GEMMA,
    "glm": _HEAD_DIM,
    "glm4": _HEAD_DIM,
    "gpt2": _GPT,
    "gpt_bigcode": _GPT,
    "gpt_neo": {
        **_PLAIN,
        **{"num_layers": N_LAYERS, "num_heads": 4, "attention_types": [[["global", "local"], 1]]},
    },
    "gpt_neox": _PLAIN,
    "gpt_neox_japanese": _COMMON | {"intermediate_multiple_size": 3},
    "gptj": _GPT | {"rotary_dim": 4},
    "granite": _GROUPED
    | {
        "embedding_multiplier": 12.0,
        "residual_multiplier": 0.7,
        "attention_multiplier": 0.35,
        "logits_scaling": 2.0,
    },
    "helium": _HEAD_DIM,
    "hunyuan_v1_dense": _HEAD_DIM,
    "jais2": _GROUPED,
    "llama": _GROUPED,
    "ministral": _HEAD_DIM,
    "ministral3": _HEAD_DIM,
    "mistral": _GROUPED,
    "mpt": {"d_model": 32, "n_layers": N_LAYERS, "n_heads": 4, "max_seq_len": 64, "vocab_size": VOCAB},
    "nanochat": _GROUPED,
    "nemotron": _GROUPED,
    "olmo": _GROUPED,
    "olmo2": _GROUPED,
    "olmo3": _GROUPED,
    "openai-gpt": {key: value for key, value in _GPT.items() if key != "n_inner"},
    "opt": _COMMON | {"ffn_dim": D_FF, "word_embed_proj_dim": 32},
    "persimmon": _PLAIN,
    "phi": _PLAIN,
    "phi3": _GROUPED,
    "qwen2": _GROUPED,
    "qwen3": _HEAD_DIM,
    "seed_oss": _HEAD_DIM,
    "smollm3": _GROUPED,
    "stablelm": _GROUPED,
    "starcoder2": _GROUPED,
    "vaultgemma": _GEMMA,
    "xglm": {
        **{key: _COMMON[key] for key in ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")},
        **{"d_model": 32, "ffn_dim": D_FF, "num_layers": N_LAYERS, "attention_heads": 4},
        **{"max_position_embeddings": 64},
    },
}


def build(model_type: str, **overrides: Any) -> PreTrainedModel:
    """A fresh random model in eval mode, float32; noise makes every bias and every activation non-zero."""
    config = AutoConfig.for_model(model_type, **(SIZES[model_type] | overrides))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


@functools.cache
def tiny_model(model_type: str) -> PreTrainedModel:
    """The tiny model of this type, built once per session."""
    return build(model_type)


def tiny_input(batch: int = 2, length: int = 16, *, seed: int = 0) -> torch.Tensor:
    """Random token ids, shape `(batch, length)`, none of them a special token."""
    return torch.randint(3, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per printable ASCII character, behind `<pad> <s> </s> <unk>`; 104 tokens."""
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", *string.printable])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def save_checkpoint(folder: Path, model: PreTrainedModel) -> Path:
    """Write `model` and the tiny tokenizer as a Hugging Face checkpoint; returns `folder`."""
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
