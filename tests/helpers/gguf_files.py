"""Writes a tiny Llama as a GGUF file, as llama.cpp's converter does: names, permuted queries, tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import pre_tokenizers
from transformers import PreTrainedModel

N_HEADS, N_KV_HEADS, HEAD_DIM = 4, 2, 8
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
"""The 256 characters that stand for bytes."""
TOKENS = ["<unk>", "<s>", "</s>", *BYTES, "12", "in"]
MERGES = ["1 2", "i n"]
_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    *,
    quantisation: str = "F32",
    architecture: str = "llama",
    pre: str = "smollm",
    keys: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
) -> Path:
    """Write a Llama with a vocabulary of `len(TOKENS)`; returns the path.

    Args:
        quantisation: ggml's name of the type of the matrices.
        pre: The pre-tokenizer, `tokenizer.ggml.pre`.
        keys: Further keys; a string or a number.
        tensors: Further tensors, float32.
    """
    import gguf

    config: Any = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(N_HEADS)
    writer.add_head_count_kv(N_KV_HEADS)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(MERGES)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{% for m in messages %}[{{ m['content'] }}]{% endfor %}")
    for key, value in (keys or {}).items():
        (writer.add_string if isinstance(value, str) else writer.add_uint32)(key, value)
    kind = gguf.GGMLQuantizationType[quantisation]
    for name, value in model.state_dict().items():
        matrix = _permuted(name, value.float()).numpy()
        if matrix.ndim == 1:
            writer.add_tensor(_gguf_name(name), matrix)
        else:
            writer.add_tensor(_gguf_name(name), gguf.quantize(matrix, kind), raw_dtype=kind)
    for name, value in (tensors or {}).items():
        writer.add_tensor(name, value.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _gguf_name(name: str) -> str:
    outer = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    stem, _, suffix = name.rpartition(".")
    if stem in outer:
        return f"{outer[stem]}.{suffix}"
    _, _, layer, inner = stem.split(".", 3)
    return f"blk.{layer}.{_NAMES[inner]}.{suffix}"


def _permuted(name: str, weight: torch.Tensor) -> torch.Tensor:
    """ggml rotates neighbouring pairs, transformers the halves of a head, so rows of `q` and `k` change places."""
    heads = N_HEADS if "q_proj" in name else N_KV_HEADS if "k_proj" in name else 0
    if not heads:
        return weight.contiguous()
    halves = weight.view(heads, 2, -1, weight.shape[1])
    return halves.transpose(1, 2).reshape(weight.shape).contiguous()
