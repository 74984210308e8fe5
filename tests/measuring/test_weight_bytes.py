"""Bytes of a decoded token, counted by hand from the shapes."""

from __future__ import annotations

import pytest
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from sparsing.errors import InputError
from sparsing.measuring.weight_bytes import WeightBytes, count_parameters, site_weights, weight_bytes

from ..helpers.coded import Codes
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


def test_a_projection_of_codes_counts_as_its_matrix_with_the_bytes_of_codes_and_scales():
    def model():
        return LlamaForCausalLM(LlamaConfig(**SIZES, intermediate_size=40))

    plain, coded = loaded(model()), model()
    coded.model.layers[1].mlp.down_proj = Codes(coded.model.layers[1].mlp.down_proj)
    coded = loaded(coded)
    assert count_parameters(coded.model, coded.sites) == count_parameters(plain.model, plain.sites)
    saved = 16 * 40 * (4 - 1) - 4 * 16  # a byte per weight in place of four, and a scale per output
    assert weight_bytes(coded).total_bytes == weight_bytes(plain).total_bytes - saved
    assert weight_bytes(coded).ffn_bytes == weight_bytes(plain).ffn_bytes - saved
    one, other = (site_weights(coded.model, site) for site in coded.sites[:2])
    assert (other.parameters, other.matrices, other.bytes) == (one.parameters, 3, one.bytes - saved)


def test_what_sparsity_buys():
    weights = WeightBytes(total_bytes=100, ffn_bytes=60)
    assert weights.sparse_bytes(1.0) == 100
    assert weights.sparse_bytes(0.25) == pytest.approx(55)
    assert weights.speedup_ceiling(0.0) == pytest.approx(2.5)
    with pytest.raises(InputError, match=r"activation_ratio must be in \[0, 1\], got 1.5"):
        weights.sparse_bytes(1.5)
