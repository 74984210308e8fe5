"""Contexts against brute force: the largest token of each of a neuron's best stretches, for any batch size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sparsing.neurons.contexts
from sparsing.measuring.passes import PassSettings, run_pass
from sparsing.models.loading import LoadedModel
from sparsing.neurons.contexts import STRETCH, TopContexts, merge_contexts
from sparsing.neurons.neuron_observer import NeuronObserver, NeuronTotals
from sparsing.rules.thresholds import Thresholds
from sparsing.text.corpus import Corpus

from ..helpers.measuring import assert_same_totals, text_corpus, tiny_loaded, totals_of_halves

K = 4


def cuts(n_layers: int = 2) -> Thresholds:
    return Thresholds(rule="cett", level=0.1, on="neuron_norm", values=(0.03,) * n_layers)


def watch(model: LoadedModel, corpus: Corpus, **settings) -> NeuronTotals:
    observer = NeuronObserver(model, corpus, cuts(), sample=64, contexts=K)
    return run_pass(model, corpus, observer, key="k", settings=PassSettings(**settings), head=False).totals


def brute_force(model: LoadedModel, corpus: Corpus, layer: int, neuron: int) -> list[tuple[float, int]]:
    """(value, place) of the best stretches of one neuron, from every activation, one window at a time."""
    best = []
    site = model.sites[layer]
    for window, batch in enumerate(corpus.batches(1)):
        kept = {}
        handle = site.down_proj.register_forward_pre_hook(
            lambda module, args, kept=kept: kept.update(h=args[0])
        )
        with torch.no_grad():
            model.model(input_ids=batch.ids, attention_mask=batch.real.long())
        handle.remove()
        h = kept["h"].reshape(-1, site.d_ff)[:, neuron]
        for begin in range(0, len(h), STRETCH):
            places = [
                (abs(h[i].item()), h[i].item(), window * corpus.width + i)
                for i in range(begin, min(begin + STRETCH, len(h)))
                if batch.counted[0, i]
            ]
            if places:
                _, value, place = max(places)
                best.append((value, place))
    return sorted(best, key=lambda pair: -abs(pair[0]))[:K]


@pytest.mark.parametrize("model_type", ["llama", "opt", "gpt2"])
@pytest.mark.parametrize("sorts_all", [False, True])
def test_contexts_of_single_neurons_by_brute_force(model_type, sorts_all, monkeypatch):
    if sorts_all:  # as on an accelerator
        monkeypatch.setattr(
            sparsing.neurons.contexts, "_columns_to_sort", lambda most, worst: torch.arange(len(most))
        )
    model, corpus = tiny_loaded(model_type), text_corpus(400, window=50, stride=45, bos="always")
    totals = watch(model, corpus, batch_size=3)
    for layer, neuron in ((0, 0), (0, 17), (1, 5), (1, 31)):
        wanted = brute_force(model, corpus, layer, neuron)
        contexts = totals.sites[layer].contexts
        np.testing.assert_allclose(contexts.value[:, neuron], [value for value, _ in wanted], rtol=1e-3)
        assert contexts.place[:, neuron].tolist() == [place for _, place in wanted]


def test_batch_size_does_not_matter():
    model, corpus = tiny_loaded(), text_corpus(700, window=64)
    single, many = watch(model, corpus, batch_size=1), watch(model, corpus, batch_size=11)
    for a, b in zip(single.sites, many.sites, strict=True):
        assert (a.contexts.place == b.contexts.place).float().mean() > 0.999
        assert torch.equal(a.count, b.count)
        assert torch.equal(a.bits, b.bits)
        torch.testing.assert_close(a.size, b.size, rtol=1e-6, atol=0)


def test_fewer_places_than_wanted_and_a_silent_neuron():
    contexts = TopContexts.empty(2, 3, torch.device("cpu"))
    h = torch.zeros(1, 4, 2)
    h[0, 2, 0] = -1.5
    assert contexts.add(h.abs(), h, torch.tensor([100])).tolist() == [1.5, 0.0]
    assert contexts.value.tolist() == [[-1.5, 0.0], [0.0, 0.0], [0.0, 0.0]]
    assert contexts.place.tolist() == [[102, -1], [-1, -1], [-1, -1]]


def test_the_best_of_two_corpora():
    first, second = (TopContexts.empty(2, 2, torch.device("cpu")) for _ in range(2))
    first.value, first.place = torch.tensor([[3.0, -9.0], [1.0, 0.0]]), torch.tensor([[7, 8], [5, -1]])
    second.value, second.place = torch.tensor([[-4.0, 2.0], [2.0, 1.0]]), torch.tensor([[1, 2], [3, 4]])
    contexts = merge_contexts([first, second], torch.tensor([1.0, 0.5]))
    assert contexts.value.tolist() == [[-4.0, -4.5], [3.0, 1.0]]
    assert contexts.place.tolist() == [[1, 8], [7, 2]]
    assert contexts.corpus.tolist() == [[1, 0], [0, 1]]


def test_merging_keeps_the_best_contexts_of_both_parts():
    first, second = (TopContexts.empty(3, 2, torch.device("cpu")) for _ in range(2))
    first.value, first.place = (
        torch.tensor([[3.0, -9.0, 0.0], [1.0, 0.0, 0.0]]),
        torch.tensor([[7, 8, -1], [5, -1, -1]]),
    )
    second.value, second.place = (
        torch.tensor([[-4.0, 2.0, 0.0], [2.0, 1.0, 0.0]]),
        torch.tensor([[1, 2, -1], [3, 4, -1]]),
    )
    first.merge(second)
    assert first.value.tolist() == [[-4.0, -9.0, 0.0], [3.0, 2.0, 0.0]]
    assert first.place.tolist() == [[1, 8, -1], [7, 2, -1]]


def test_two_halves_of_a_study_merge_to_the_whole():
    model, corpus = tiny_loaded(), text_corpus(640, window=40)
    whole, first, second = totals_of_halves(
        model, corpus, lambda: NeuronObserver(model, corpus, cuts(), sample=64, contexts=K), batch_size=2
    )
    assert isinstance(first, NeuronTotals)
    # which tokens are sampled depends on their place in the whole corpus, which the second half does not know
    for totals in (whole, first, second):
        for site in totals.sites:
            site.bits.zero_()
    first.merge(second)
    assert_same_totals(first, whole)
