"""`read_outline`: a model's configuration, tokenizer and sizes, without its weights; for plans of long work."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sparsing.models.architecture import auto_class, build_config, check_architecture
from sparsing.models.checkpoint import locate_checkpoint, read_config
from sparsing.models.gguf import read_gguf_configuration
from sparsing.models.gguf_file import is_gguf_file
from sparsing.models.loading import checked_dtype_name
from sparsing.models.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

_EXPERT = re.compile(r"\.experts\.")
_N_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_EXPERT_WIDTH = ("moe_intermediate_size", "intermediate_size", "ffn_hidden_size")
"""Neurons of an expert; many models name them as those of a dense block."""
_SHARED_WIDTH = (
    "shared_expert_intermediate_size",
    "moe_shared_expert_intermediate_size",
    "shared_intermediate_size",
)
_N_SHARED = ("n_shared_experts", "moe_num_shared_experts", "num_shared_experts")
_TOP_K = ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "top_k_experts")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSizes:
    """The sizes that decide what a pass costs."""

    num_parameters: int
    """All parameters; a tied head counts once."""
    matmul_parameters: int
    """Weights that every token is multiplied with: of experts the routed share, of embeddings the head only."""
    n_layers: int
    d_model: int
    d_ff: int
    """Neurons that a token passes in a layer: of all experts that it is routed to, and of shared experts."""
    n_neurons: int
    """All neurons of a layer, of all its experts."""
    attention_width: int
    """Heads times width of a head."""
    vocab: int

    def flops_per_token(self, width: int) -> float:
        """Floating-point operations of a forward pass, per token of windows of `width` tokens.

        Two per weight, and for each layer the two products of causal attention, over half a window on average.
        """
        return 2.0 * self.matmul_parameters + 2.0 * self.n_layers * width * self.attention_width


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outline:
    """A model without its weights."""

    name: str
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    dtype: str
    """In which the model would be loaded, e.g. `bfloat16`."""
    sizes: ModelSizes
    trust_remote_code: bool = False


def read_outline(
    name: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    tokenizer: str | Path | None = None,
    dtype: str | None = None,
) -> Outline:
    """Reads configuration and tokenizer; of a model on the hub no weights are downloaded.

    The arguments are those of `load_model`.

    Raises:
        InputError: If there is no such model, its configuration is invalid, or the dtype is unknown.
        UnsupportedModelError: For a model that cannot be measured.
    """
    wanted = checked_dtype_name(dtype)
    path = Path(name).expanduser()
    loaded: Any
    if is_gguf_file(path):
        config, loaded = read_gguf_configuration(path, tokenizer=tokenizer)
        own_dtype = "float32"  # to which the weights are dequantised
    else:
        folder, _ = locate_checkpoint(name, revision=revision, code=trust_remote_code, weights=False)
        config = build_config(folder, read_config(folder), trust_remote_code)
        check_architecture(config, trust_remote_code)
        loaded = load_tokenizer(folder, config, source=tokenizer, trust_remote_code=trust_remote_code)
        own_dtype = str(getattr(config, "dtype", None) or torch.float32).removeprefix("torch.")
    return Outline(
        name=name,
        config=config,
        tokenizer=loaded,
        dtype=own_dtype if wanted == "auto" else wanted,
        sizes=model_sizes(config, trust_remote_code),
        trust_remote_code=trust_remote_code,
    )


def model_sizes(config: Any, trust_remote_code: bool = False) -> ModelSizes:
    """The sizes of the model that this configuration describes, from a model on the `meta` device."""
    with torch.device("meta"):
        model = auto_class(config).from_config(config, trust_remote_code=trust_remote_code)
    text = config.get_text_config()
    experts, top_k = _first(text, _N_EXPERTS), _first(text, _TOP_K)
    share = top_k / experts if experts and top_k else 1.0
    head = model.get_output_embeddings()
    embedding = model.get_input_embeddings().weight
    parameters = dict(model.named_parameters())
    used = sum(
        parameter.numel() * (share if _EXPERT.search(name) else 1.0)
        for name, parameter in parameters.items()
        if parameter.ndim > 1 and parameter is not embedding
    )
    if head is not None and head.weight is embedding:
        used += embedding.numel()
    heads = _first(text, ("num_attention_heads", "n_head", "n_heads")) or 1
    d_model = embedding.shape[1]
    dense = _first(text, ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size")) or 4 * d_model
    expert = _first(text, _EXPERT_WIDTH) or dense
    shared = _first(text, _SHARED_WIDTH) or _first(text, _N_SHARED) * expert
    routed = experts and top_k
    return ModelSizes(
        num_parameters=sum(parameter.numel() for parameter in parameters.values()),
        matmul_parameters=round(used),
        n_layers=_first(text, ("num_hidden_layers", "n_layer", "n_layers")),
        d_model=d_model,
        d_ff=top_k * expert + shared if routed else dense,
        n_neurons=experts * expert + shared if routed else dense,
        attention_width=heads * (_first(text, ("head_dim",)) or d_model // heads),
        vocab=embedding.shape[0],
    )


def _first(config: Any, names: tuple[str, ...]) -> int:
    """The first of these values that the configuration has; 0 without one. A value per layer counts by its largest."""
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, (list, tuple)) and value:
            return int(max(value))
        if isinstance(value, int) and value:
            return value
    return 0
