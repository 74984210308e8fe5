"""Cuts for code of one's own: the hook of docs/use-thresholds.md gives the logits of `sparsify`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparsing import sparsify
from sparsing.errors import InputError
from sparsing.rules.scores import cut as cut_of
from sparsing.rules.thresholds import Thresholds

from ..helpers.measuring import tiny_loaded
from ..helpers.tiny import tiny_input


def sparse_input(cut):
    return lambda module, inputs: (inputs[0] * (inputs[0].abs() > cut),)


@pytest.mark.parametrize("on", ["h", "neuron_norm"])
@pytest.mark.parametrize("model_type", ["llama", "opt", "gpt2"])
def test_the_hook_of_the_page_equals_sparsify(on, model_type):
    loaded, ids = tiny_loaded(model_type), tiny_input()
    thresholds = Thresholds(rule="cett", level=0.1, on=on, values=dict.fromkeys(_names(loaded), 0.05))
    with torch.no_grad(), sparsify(loaded.model, thresholds) as sparse:
        expected = sparse(ids).logits
    cuts = thresholds.cuts(loaded)
    assert {name: cut.shape for name, cut in cuts.items()} == {s.name: (s.d_ff,) for s in loaded.sites}
    modules = [(loaded.model.get_submodule(name), cut) for name, cut in cuts.items()]
    handles = [module.register_forward_pre_hook(sparse_input(cut)) for module, cut in modules]
    with torch.no_grad():
        found = loaded.model(ids).logits
        for handle in handles:
            handle.remove()
        dense = loaded.model(ids).logits
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, dense, atol=1e-3)


def test_a_ranking_has_no_cuts():
    loaded = tiny_loaded()
    shares = Thresholds(
        rule="top_k", level=0.5, on="gate", select="top_k", values=dict.fromkeys(_names(loaded), 0.5)
    )
    with pytest.raises(InputError, match="only thresholds have cuts"):
        shares.cuts(loaded.model)


def test_a_value_with_its_sign_has_no_cuts():
    loaded = tiny_loaded()
    signed = Thresholds(
        rule="quantile:pre_gate", level=0.5, on="pre_gate", values=dict.fromkeys(_names(loaded), 0.5)
    )
    with pytest.raises(InputError, match="a value with its sign, not a magnitude"):
        signed.cuts(loaded.model)


def test_the_repr_is_short():
    loaded = tiny_loaded()
    thresholds = Thresholds(rule="cett", level=0.1, on="h", values=dict.fromkeys(_names(loaded), 0.05))
    assert repr(thresholds) == "Thresholds(cett 0.1: above on h, 2 layers)"
    assert repr(loaded) == "LoadedModel(tiny: llama, 0.0M parameters, 2 layers, float32, cpu)"


def _names(loaded):
    return [site.name for site in loaded.sites]


def test_a_cut_is_rounded_once():
    """So that `threshold / norm` in NumPy or C++ gives the same cut; PyTorch rounds a number over a tensor twice."""
    norms = torch.rand(1000, generator=torch.Generator().manual_seed(0)) + 0.5
    wanted = np.float32(0.18049585659986722) / norms.numpy()
    np.testing.assert_array_equal(torch.as_tensor(cut_of(0.18049585659986722, norms)), wanted)
