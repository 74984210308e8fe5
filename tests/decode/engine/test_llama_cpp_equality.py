"""The dense engine computes the same logits as llama.cpp, bit for bit, so both write the same text."""

from __future__ import annotations

import pytest

from sparsing.models.gguf_export import export_gguf

from ...helpers.gguf_models import IDS, build, requantised, same_logits

SIZES = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}


@pytest.mark.parametrize("weight_type", ["Q4_0", "Q4_1", "Q5_0", "F16", "BF16"])
def test_logits_are_those_of_llama_cpp(tmp_path, weight_type):
    path = export_gguf(build("llama", **SIZES), tmp_path / "model.gguf", weight_type=weight_type)
    assert len(same_logits(path, IDS, 8)) == 8


@pytest.mark.parametrize("mixture", ["Q4_K_M", "Q6_K"])
def test_logits_of_k_quants(tmp_path, mixture):
    path = requantised(build("llama", **SIZES), tmp_path, mixture)
    assert len(same_logits(path, IDS, 8)) == 8
