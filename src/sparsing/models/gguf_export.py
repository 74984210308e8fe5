"""Writes a Hugging Face model as a GGUF file, so that the engine and llama.cpp can decode it.

Llama-shaped models are written: Llama and Mistral, Granite (the form of this package's own models), Qwen 2 and 3,
Gemma, Gemma 2 and Arcee. Names and order of the weights are those of llama.cpp's own converter. GGUF has no key for the
activation of these architectures, so `<architecture>.hidden_activation`, llama.cpp's key for other ones, is added where
the activation is unusual. llama.cpp ignores the key and computes its usual activation, in the same time.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsing.errors import InputError, UnsupportedModelError
from sparsing.models.gguf_file import gguf_package

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TYPES = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
"""Types that the package gguf can quantise to. `llama_cpp.llama_model_quantize` makes the K-quants from such a file."""
_NORMAL, _CONTROL = 1, 3
"""Token types of GGUF."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Form:
    """How an architecture is written."""

    name: str
    act: str = "silu"
    """Activation that llama.cpp computes."""
    permuted: bool = False
    """Rows of q and k are reordered, since the architecture turns neighbouring channels."""
    norm_offset: float = 0.0
    """Added to the weights of the norms."""


_FORMS = {
    "llama": _Form(name="llama", permuted=True),
    "mistral": _Form(name="llama", permuted=True),
    "granite": _Form(name="granite", permuted=True),
    "arcee": _Form(name="arcee", permuted=True, act="relu2"),
    "qwen2": _Form(name="qwen2"),
    "qwen3": _Form(name="qwen3"),
    "gemma": _Form(name="gemma", act="gelu_pytorch_tanh", norm_offset=1.0),
    "gemma2": _Form(name="gemma2", act="gelu_pytorch_tanh", norm_offset=1.0),
}
"""Hugging Face model type to its form."""


def export_gguf(
    model: PreTrainedModel,
    path: str | Path,
    *,
    weight_type: str = "Q8_0",
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Path:
    """Write the model to `path`, and return `path`. Norms and biases are written as F32.

    Args:
        weight_type: A type of `TYPES` for the matrices.
        tokenizer: A byte-level BPE tokenizer as this package trains them; None writes no vocabulary.

    Raises:
        InputError: If the type is unknown, a matrix cannot be divided into its blocks, the tokenizer is of another
            kind, or the package gguf is not installed.
        UnsupportedModelError: If the architecture cannot be written.
    """
    gguf, config = gguf_package(), model.config
    form = _FORMS.get(config.model_type)
    if form is None:
        raise UnsupportedModelError(
            f"a model of type {config.model_type!r} is not written as GGUF; types that are: {', '.join(sorted(_FORMS))}"
        )
    if weight_type not in TYPES:
        raise InputError(f"weights are written as {', '.join(TYPES)}, got {weight_type!r}")
    kind, path = gguf.GGMLQuantizationType[weight_type], Path(path)
    tensors = list(_tensors(model, form))  # every check comes before the file is written
    block = gguf.GGML_QUANT_SIZES[kind][0]
    for name, weight in tensors:
        if weight.ndim == 2 and weight.shape[1] % block:
            raise InputError(
                f"{name} has rows of {weight.shape[1]}, no multiple of the {block} of {weight_type}"
            )
    vocabulary = None if tokenizer is None else _vocabulary(tokenizer, config.vocab_size)
    writer = gguf.GGUFWriter(path, form.name)
    _add_keys(writer, config, form, model)
    if vocabulary is None:
        writer.add_tokenizer_model("no_vocab")
    else:
        _add_vocabulary(writer, vocabulary, tokenizer)
    for name, weight in tensors:
        values = weight.float().numpy()
        if weight.ndim == 2:
            writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(model: PreTrainedModel, form: _Form) -> Iterator[tuple[str, torch.Tensor]]:
    """Names in the file and weights."""
    config, gguf = model.config, gguf_package()
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == form.name)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    tied = bool(config.tie_word_embeddings)
    for name, weight in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise UnsupportedModelError(
                f"GGUF has no name for the weight {name!r} of a {config.model_type} model"
            )
        weight = weight.detach().cpu()
        if form.permuted and name.endswith(("q_proj.weight", "q_proj.bias")):
            weight = _neighbours(weight, config.num_attention_heads)
        if form.permuted and name.endswith(("k_proj.weight", "k_proj.bias")):
            weight = _neighbours(weight, config.num_key_value_heads)
        if name.endswith("norm.weight"):
            weight = weight + form.norm_offset
        yield found, weight


def _neighbours(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """The rows of each head reordered, so that the channels that are turned together are neighbours."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, half, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def _add_keys(writer: Any, config: Any, form: _Form, model: PreTrainedModel) -> None:
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    rope = config.rope_parameters
    if rope.get("rope_type", "default") not in ("default", "linear"):
        raise UnsupportedModelError(f"the rotary embedding {rope['rope_type']!r} is not written as GGUF")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf_package().RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    act = getattr(config, "hidden_activation", None) or config.hidden_act
    if act != form.act:
        writer.add_string(f"{form.name}.hidden_activation", act)
    if form.name == "granite":
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)
    if form.name == "gemma2":
        if not math.isclose(config.query_pre_attn_scalar, head_dim):
            raise UnsupportedModelError(
                "a Gemma 2 model whose query_pre_attn_scalar is not head_dim is not written"
            )
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping or 0.0)
        writer.add_final_logit_softcapping(config.final_logit_softcapping or 0.0)
    if form.name in ("llama", "gemma2") and getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)


def _vocabulary(tokenizer: Any, size: int) -> dict[str, Any]:
    """Tokens, their types and merges.

    Raises:
        InputError: If the tokenizer is no byte-level BPE.
    """
    document = json.loads(tokenizer.backend_tokenizer.to_str())
    model, before = document["model"], document.get("pre_tokenizer") or {}
    if model["type"] != "BPE" or before.get("type") != "ByteLevel" or not before.get("use_regex", True):
        raise InputError(
            "only byte-level BPE tokenizers are written as GGUF; pass tokenizer=None for no vocabulary"
        )
    ids = tokenizer.get_vocab()
    tokens = [f"[PAD{i}]" for i in range(size)]
    for token, i in ids.items():
        tokens[i] = token
    special = set(tokenizer.all_special_ids)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return {
        "tokens": tokens,
        "types": [_CONTROL if i in special or i >= len(ids) else _NORMAL for i in range(size)],
        "merges": merges,
        "adds_bos": tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id,
    }


def _add_vocabulary(writer: Any, vocabulary: dict[str, Any], tokenizer: Any) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocabulary["tokens"])
    writer.add_token_types(vocabulary["types"])
    writer.add_token_merges(vocabulary["merges"])
    adders: dict[str, Callable[[int], None]] = {
        "bos_token_id": writer.add_bos_token_id,
        "eos_token_id": writer.add_eos_token_id,
        "pad_token_id": writer.add_pad_token_id,
    }
    for name, add in adders.items():
        if (token := getattr(tokenizer, name)) is not None:
            add(token)
    writer.add_add_bos_token(bool(vocabulary["adds_bos"]))
    writer.add_add_eos_token(False)
