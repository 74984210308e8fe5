"""Scores against their definitions, and the one comparison that every stage calls."""

from __future__ import annotations

import pytest
import torch

from sparsing.errors import InputError
from sparsing.rules.scores import SCORES, cut, is_active, sizes

from ..helpers.measuring import score_of, tiny_loaded


def test_active_means_strictly_above():
    value = torch.tensor([-0.2, -0.1, -0.0, 0.0, 0.1, 0.2])
    assert is_active(value, 0.0).tolist() == [True, True, False, False, True, True]
    assert is_active(value, 0.1).tolist() == [True, False, False, False, False, True]
    assert not is_active(value, float("inf")).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_cut_is_not_rounded_to_the_dtype_of_the_activations(dtype):
    value = torch.tensor([0.05, 1.0, 3e-3], dtype=dtype)
    for threshold in (0.05, 1.0, 1.001, 0.999, 3e-3):
        wanted = value.double() > torch.tensor(threshold, dtype=torch.float32).double()
        if dtype == torch.float64:
            wanted = value > threshold
        assert torch.equal(is_active(value, threshold), wanted)
        assert torch.equal(
            is_active(value, cut(threshold, torch.ones(3))), value.double() > torch.tensor(threshold)
        )


@pytest.mark.parametrize("model_type", ["llama", "opt", "gpt2", "phi3"])
@pytest.mark.parametrize("name", ["gate", "h", "neuron_norm"])
def test_a_score_is_the_value_times_the_norm_of_its_column(name, model_type):
    loaded = tiny_loaded(model_type)
    for layer, site in enumerate(loaded.sites):
        gate, h = torch.randn(2, 5, site.d_ff, generator=torch.Generator().manual_seed(layer)).unbind()
        value = gate if SCORES[name].value == "gate" else h
        size = sizes(value, SCORES[name].scale(site))
        torch.testing.assert_close(size.double(), score_of(loaded, layer, name, gate, h))
        assert size.dtype == torch.float32


def test_a_cut_of_the_value_is_a_cut_of_the_score():
    value = torch.randn(50, 96, generator=torch.Generator().manual_seed(0))
    scale = torch.rand(96, generator=torch.Generator().manual_seed(1))
    for threshold in (0.0, 0.1, 0.5, 3.0):
        above = sizes(value, scale) > threshold
        different = is_active(value, cut(threshold, scale)) != above
        assert (sizes(value, scale) - threshold).abs()[different].lt(1e-6).all()


def test_a_neuron_without_weights_is_never_active():
    value, scale = torch.ones(3, 2), torch.tensor([0.0, 1.0])
    for threshold in (0.0, 0.5):
        assert is_active(value, cut(threshold, scale)).tolist() == [[False, True]] * 3


def test_sizes_of_half_floats_are_computed_in_float32():
    value = torch.tensor([3.0], dtype=torch.bfloat16)
    assert sizes(value, torch.tensor([1.001])).item() == pytest.approx(3.003, rel=1e-6)


def test_an_unknown_score_gets_a_suggestion():
    with pytest.raises(InputError, match="Did you mean: neuron_norm"):
        SCORES["neuron_nrm"]
