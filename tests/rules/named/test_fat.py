"""FAT-eps: the same threshold on `|gate|` in every layer."""

from __future__ import annotations

import torch

from sparsing.rules import make_rule
from sparsing.rules.mask import Mask
from sparsing.rules.thresholds import thresholds_at
from sparsing.sites.tap import Rows

from ...helpers.measuring import kept_activations, text_corpus, tiny_loaded


def test_one_eps_on_the_gate_of_all_layers():
    loaded = tiny_loaded("llama")
    thresholds = thresholds_at(make_rule("fat"), 0.05, sites=("#0", "#1"))
    assert (thresholds.on, thresholds.select, thresholds.numbers) == ("gate", "above", (0.05, 0.05))
    mask = Mask(loaded.sites, thresholds)
    for layer, (gate, h) in enumerate(kept_activations(loaded, text_corpus(60))):
        assert torch.equal(mask.active(layer, Rows(gate, h, (len(h),))), gate.abs() > 0.05)
        assert not torch.equal(mask.active(layer, Rows(gate, h, (len(h),))), h.abs() > 0.05)


def test_without_a_gate_it_cuts_h():
    loaded = tiny_loaded("opt")
    mask = Mask(loaded.sites, thresholds_at(make_rule("fat"), 0.05, sites=("#0", "#1")))
    for layer, (gate, h) in enumerate(kept_activations(loaded, text_corpus(60))):
        assert torch.equal(gate, h)
        assert torch.equal(mask.active(layer, Rows(gate, h, (len(h),))), h.abs() > 0.05)
