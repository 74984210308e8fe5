"""The counting mask gives the logits of `sparsify`, and it counts exactly the neurons that the mask keeps."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from sparsing.errors import InputError
from sparsing.evaluation.model.activity import Activity, Tally
from sparsing.evaluation.model.counting import CountingMask
from sparsing.rules.mask import Mask, sparsify
from sparsing.rules.thresholds import Thresholds
from sparsing.sites.discovery import find_sites
from sparsing.sites.tap import tapped

from ...helpers.tiny_experts import SIZES, TOP_K, build_experts

MODEL_TYPES = ("llama", "opt", "gpt2", "granite")


def thresholds(
    n_layers: int, on: str = "neuron_norm", select: str = "above", value: float = 0.02
) -> Thresholds:
    return Thresholds(rule="cett", level=0.1, on=on, select=select, values=(value,) * n_layers)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize(
    ("on", "select", "value"),
    [("neuron_norm", "above", 0.02), ("gate", "above", 0.05), ("h", "above", 0.01), ("gate", "top_k", 0.3)],
)
def test_logits_and_counts_are_those_of_the_mask(tiny_model, tiny_input, model_type, on, select, value):
    model = tiny_model(model_type)
    sites, ids = find_sites(model), tiny_input(2, 9)
    cuts = thresholds(len(sites), on, select, value)
    seen = {}
    mask = Mask(sites, cuts)

    def look(index, rows):
        change = mask.change(index, rows)
        seen[index] = change.active.sum(-1).view(2, 9)
        return change.h

    with torch.no_grad(), tapped(sites, look, gate=mask.needs_gate):
        wanted = model(ids).logits
    counting = CountingMask(sites, cuts)
    with torch.no_grad(), tapped(sites, counting.see, gate=counting.needs_gate):
        logits = model(ids).logits
    assert torch.equal(logits, wanted)
    with torch.no_grad(), sparsify(model, cuts):
        assert torch.equal(model(ids).logits, wanted)
    counts = counting.take((2, 9))
    assert torch.equal(counts, torch.stack([seen[layer] for layer in range(len(sites))]))
    assert 0 < counts.sum() < 2 * 9 * sum(counting.d_ff)


def test_pieces_give_what_one_piece_gives(monkeypatch, tiny_model, tiny_input):
    model = tiny_model("llama")
    sites, ids = find_sites(model), tiny_input(3, 11)
    outputs = []
    for values in (1, 2**30):
        monkeypatch.setattr("sparsing.evaluation.model.counting._CACHE_VALUES", values)
        counting = CountingMask(sites, thresholds(len(sites)))
        with torch.no_grad(), tapped(sites, counting.see, gate=counting.needs_gate):
            outputs.append((model(ids).logits, counting.take((3, 11))))
    assert torch.equal(outputs[0][0], outputs[1][0])
    assert torch.equal(outputs[0][1], outputs[1][1])


def test_sequence_top_k_is_refused(tiny_model):
    sites = find_sites(tiny_model("llama"))
    cuts = dataclasses.replace(thresholds(len(sites)), on="gate", select="top_k_sequence")
    with pytest.raises(InputError, match="--scope token"):
        CountingMask(sites, cuts)


def test_activity_by_hand():
    tally = Tally(n_layers=2)
    counts = torch.tensor([[[1, 2, 9]], [[4, 0, 9]]])  # two layers, one sequence, the last token is padding
    tally.add(counts, torch.tensor([[True, True, False]]))
    seen = Activity.of([tally.state(), tally.state()], d_ff=[4, 8])  # two processes with the same share
    assert seen.num_tokens == 4
    assert seen.layer_activation_ratio == (3 / 8, 4 / 16)
    assert seen.activation_ratio == (3 / 8 + 4 / 16) / 2


def test_no_token_gives_no_ratio():
    seen = Activity.of([Tally(n_layers=2).state()], d_ff=[4, 4])
    assert seen.num_tokens == 0
    assert seen.layer_activation_ratio == ()


@pytest.mark.parametrize("model_type", sorted(SIZES))
@pytest.mark.parametrize(("on", "value"), [("neuron_norm", 0.02), ("gate", 0.05)])
def test_experts_are_masked_and_counted_as_by_the_mask(model_type, on, value, tiny_input):
    """`CountingMask` changes rows in place, which must reach the experts whatever runs them."""
    model = build_experts(model_type)
    sites, ids = find_sites(model), tiny_input(2, 9)
    cuts = thresholds(len(sites), on, value=value)
    mask, counting, seen = Mask(sites, cuts), CountingMask(sites, cuts), {}

    def look(index, rows):
        change = mask.change(index, rows)
        seen[index] = rows.per_token(change.active.sum(-1)[:, None]).sum(-1).view(2, 9)
        return change.h

    with torch.no_grad():
        dense = model(ids).logits
        with tapped(sites, look, gate=mask.needs_gate):
            wanted = model(ids).logits
        with tapped(sites, counting.see, gate=counting.needs_gate):
            assert torch.equal(model(ids).logits, wanted)
    assert not torch.equal(dense, wanted)
    assert torch.equal(counting.take((2, 9)), torch.stack([seen[site] for site in range(len(sites))]))
    assert counting.d_ff == [site.d_ff * (TOP_K if site.kind == "expert" else 1) for site in sites]
