"""Bytes of a decoded token, counted by hand from the shapes."""

from __future__ import annotations

import pytest
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from sparsing.errors import InputError
from sparsing.measuring.weight_bytes import WeightBytes, weight_bytes

from ..helpers.measuring import loaded

SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 50}


@pytest.mark.parametrize("tied", [True, False])
def test_gated(tied):
    model = LlamaForCausalLM(LlamaConfig(**SIZES, intermediate_size=40, tie_word_embeddings=tied)).bfloat16()
    found = weight_bytes(loaded(model))
    ffn = 3 * (3 * 16 * 40)
    attention, norms = 3 * 4 * 16 * 16, (2 * 3 + 1) * 16
    assert found.ffn_bytes == 2 * ffn
    assert found.total_bytes == 2 * (ffn + attention + norms + 50 * 16)


def test_projections_beside_attention_and_looked_up_positions():
    config = OPTConfig(**SIZES, ffn_dim=40, max_position_embeddings=32, word_embed_proj_dim=16)
    found = weight_bytes(loaded(OPTForCausalLM(config)))
    ffn = 3 * (2 * 16 * 40 + 40)  # the bias of fc2 belongs to no neuron
    attention, norms = 3 * 4 * (16 * 16 + 16), (2 * 3 + 1) * 2 * 16
    assert found.ffn_bytes == 4 * ffn
    assert found.total_bytes == 4 * (ffn + 3 * 16 + attention + norms + 50 * 16)


def test_what_sparsity_buys():
    weights = WeightBytes(total_bytes=100, ffn_bytes=60)
    assert weights.sparse_bytes(1.0) == 100
    assert weights.sparse_bytes(0.25) == pytest.approx(55)
    assert weights.speedup_ceiling(0.0) == pytest.approx(2.5)
    with pytest.raises(InputError, match=r"activation_ratio must be in \[0, 1\], got 1.5"):
        weights.sparse_bytes(1.5)
