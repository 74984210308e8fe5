"""The neurons that Gaussian top-k chooses are those of Gemma 3n in transformers."""

from __future__ import annotations

import pytest
import torch
from transformers import Gemma3nTextConfig
from transformers.models.gemma3n.modeling_gemma3n import Gemma3nTextMLP

from sparsing.rules import SELECTIONS


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.95])
def test_the_chosen_neurons_are_those_of_gemma_3n(sparsity):
    config = Gemma3nTextConfig(
        hidden_size=16,
        intermediate_size=512,
        num_hidden_layers=1,
        activation_sparsity_pattern=[sparsity],
        layer_types=["full_attention"],
    )
    block = Gemma3nTextMLP(config, layer_idx=0)
    pre_gate = torch.randn(2, 5, 512, generator=torch.Generator().manual_seed(0)) * 3 + 0.7
    # a soft threshold of the chosen neurons, zero elsewhere
    theirs = block._gaussian_topk(pre_gate) > 0
    ours = SELECTIONS["gaussian_top_k"].active(pre_gate, 1 - sparsity, torch.ones(2, 5, dtype=torch.bool))
    assert torch.equal(ours, theirs)
    assert ours.double().mean().item() == pytest.approx(1 - sparsity, abs=0.02)


@pytest.mark.parametrize("share", [0.0, 1e-300, 1e-17, 1e-12])
def test_a_share_that_is_next_to_nothing_keeps_nothing(share):
    """`1 - share` is 1 in float64, where the quantile is infinite."""
    scores = torch.randn(1, 2, 512, generator=torch.Generator().manual_seed(0))
    assert not SELECTIONS["gaussian_top_k"].active(scores, share, torch.ones(1, 2, dtype=torch.bool)).any()
