"""A model with one token at which one neuron overflows, in float16 or in float32."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from .tiny import build, tiny_tokenizer

BAD = "~"
"""The token; `random_text` has letters and spaces only."""
_WEIGHT = {torch.float16: 60, torch.bfloat16: 60, torch.float32: 4e18}


def overflowing(dtype: torch.dtype) -> PreTrainedModel:
    """A Llama in which neuron 5 of layer 1 exceeds the largest number of the dtype at the token `BAD`.

    The weights of bfloat16 are those of float16, which do not overflow in bfloat16.
    """
    model = build("llama")
    token = tiny_tokenizer().convert_tokens_to_ids(BAD)
    with torch.no_grad():
        model.model.embed_tokens.weight[token] = 0
        model.model.embed_tokens.weight[token, 0] = 50
        block = model.model.layers[1].mlp
        block.gate_proj.weight[5, 0] = block.up_proj.weight[5, 0] = _WEIGHT[dtype]
        block.down_proj.weight[:, 5] = 0  # the neuron changes nothing where it is finite
    return model.to(dtype)
