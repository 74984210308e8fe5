"""Groups, unions and overlaps of active sets against sets of Python, and the weights that a token reads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparsing.measuring import active_sets as measuring_active_sets
from sparsing.measuring._measure import measure
from sparsing.measuring.passes import PassSettings, run_pass
from sparsing.measuring.savings import GROUP_SIZES, UNION_TOKENS, Savings
from sparsing.measuring.subject import Subject
from sparsing.rules import make_rule
from sparsing.rules.mask import Mask
from sparsing.sites.tap import tapped

from ..helpers.measuring import loaded, text_corpus, tiny_loaded
from ..helpers.tiny_experts import build_experts


def active_sets(subject, thresholds):
    """By site and window, one set of active neurons per counted token."""
    sites = subject.sites(thresholds.on)
    sets = [[] for _ in sites]
    mask = Mask(sites, thresholds)
    for batch in subject.corpus.batches(1):
        mask.real = batch.real

        def see(index, rows, counted=batch.counted[0]):
            change = mask.change(index, rows)
            own = [set() for _ in counted]
            for row, flags in enumerate(change.active):
                token = row if rows.routing is None else int(rows.routing.token[row])
                expert = 0 if rows.routing is None else int(rows.routing.expert[row])
                own[token] |= {expert * sites[index].d_ff + int(i) for i in flags.nonzero()[:, 0]}
            sets[index].append([one for one, real in zip(own, counted, strict=True) if real])
            return change.h

        with torch.no_grad(), tapped(sites, see, gate=mask.needs_gate, extra=mask.extra):
            subject.loaded.model(batch.ids, attention_mask=batch.real.long())
    return sites, sets


def groups_of(active, size, d_ff, place):
    """Groups with an active neuron, if neuron `n` lies at `place[n]` of its expert."""
    return {(neuron // d_ff, place[neuron] // size) for neuron in active}


@pytest.mark.parametrize(
    ("model", "rule", "level"),
    [
        ("llama", "cett", 0.3),
        ("llama", "top_k", 0.2),
        ("opt", "quantile", 0.7),
        ("llama", "quantile:x", 0.6),
        ("glm4_moe", "cett", 0.4),
    ],
)
def test_groups_unions_and_overlap_equal_sets(model, rule, level):
    own = loaded(build_experts(model)) if model.endswith("moe") else tiny_loaded(model)
    corpus = text_corpus(90, window=20, stride=13, bos="always")
    score = {"cett": "neuron_norm", "top_k": "gate"}.get(rule, "x" if rule.endswith("x") else "h")
    subject = Subject(own, corpus, scores=[score])
    result = measure(subject, rule, level=level)
    sites, sets = active_sets(subject, result.thresholds)
    savings = result.savings
    assert savings.num_tokens == 90
    for index, (site, windows) in enumerate(zip(sites, sets, strict=True)):
        tokens = [active for window in windows for active in window]
        counts = np.zeros(site.n_neurons)
        for active in tokens:
            counts[list(active)] += 1
        lying = np.arange(site.n_neurons) % site.d_ff
        by_frequency = np.empty(site.n_neurons, dtype=int)
        for expert in range(site.n_experts):
            part = slice(expert * site.d_ff, (expert + 1) * site.d_ff)
            by_frequency[part][np.argsort(-counts[part], kind="stable")] = np.arange(site.d_ff)
        for place, found in ((lying, savings.group_ratio), (by_frequency, savings.sorted_group_ratio)):
            for size, ratio in zip(GROUP_SIZES, found[index], strict=True):
                read = np.mean([len(groups_of(active, size, site.d_ff, place)) for active in tokens])
                assert ratio == pytest.approx(read / (site.top_k * -(-site.d_ff // size)))
        for length, ratio in zip(UNION_TOKENS, savings.union_ratio[index], strict=True):
            runs = [w[i : i + length] for w in windows for i in range(len(w) - length + 1)]
            assert ratio == pytest.approx(np.mean([len(set().union(*run)) for run in runs]) / site.width)
        pairs = [(w[i], w[i + 1]) for w in windows for i in range(len(w) - 1)]
        overlap = np.mean([len(a & b) / len(a | b) if a | b else 1.0 for a, b in pairs])
        assert savings.neighbour_jaccard[index] == pytest.approx(overlap)
    np.testing.assert_allclose(savings.group_ratio[:, 0], result.layer_activation_ratio, rtol=1e-9)


@pytest.mark.parametrize("model", ["llama", "glm4_moe"])
def test_of_a_long_window_a_part_is_looked_at(model, monkeypatch):
    """The flags of all neurons of a window of 32,768 tokens with 128 experts would take gigabytes."""
    monkeypatch.setattr(measuring_active_sets, "SET_TOKENS", 8)
    own = loaded(build_experts(model)) if model.endswith("moe") else tiny_loaded(model)
    subject = Subject(own, text_corpus(20, window=20))
    result = measure(subject, "cett", level=0.3)
    sites, sets = active_sets(subject, result.thresholds)
    assert result.savings.num_tokens == 8
    for index, site in enumerate(sites):
        (tokens,) = sets[index]
        active = np.mean([len(one) for one in tokens[:8]]) / site.width
        assert result.savings.group_ratio[index, 0] == pytest.approx(active)
        pairs = [tokens[i] | tokens[i + 1] for i in range(7)]
        union = np.mean([len(pair) for pair in pairs]) / site.width
        assert result.savings.union_ratio[index, UNION_TOKENS.index(2)] == pytest.approx(union)


@pytest.mark.parametrize(
    ("rule", "level", "share"),
    [
        ("cett", 0.3, 1 / 3),  # down, after gate and up
        ("top_k", 0.2, 2 / 3),  # up and down, after gate
        ("top_k:up", 0.2, 2 / 3),  # gate and down, after up
        ("griffin", 0.5, 1.0),
        ("quantile:x", 0.5, 1.0),
    ],
)
def test_weights_that_a_token_reads(rule, level, share):
    subject = Subject(tiny_loaded(), text_corpus(200), scores=["neuron_norm", "gate", "up", "h", "x"])
    result = measure(subject, rule, level=level)
    savings, model = result.savings, subject.loaded.model
    dense = sum(p.numel() for p in model.parameters())
    if not model.config.tie_word_embeddings:
        dense -= model.get_input_embeddings().weight.numel()
    assert savings.dense_parameters == dense
    assert savings.dense_bytes == 4 * dense
    np.testing.assert_allclose(savings.after_score, share)
    saved = sum(
        (1 - ratio) * (site.weight.numel() if site.kind == "linear_input" else 3 * site.d_ff * site.d_model)
        for site, ratio in zip(
            subject.sites(result.thresholds.on), result.layer_activation_ratio, strict=True
        )
    )
    assert savings.active_parameters(known=True) == pytest.approx(dense - saved)
    assert savings.active_parameters(known=False) == pytest.approx(dense - share * saved)
    assert savings.active_bytes(known=False) == pytest.approx(4 * (dense - share * saved))
    assert (
        "dense" in savings.counting_rule
        or "down_proj" in savings.counting_rule
        or "column" in savings.counting_rule
    )


def test_without_a_gate_only_columns_of_down_are_saved_after_the_score(tmp_path):
    result = measure(Subject(tiny_loaded("opt"), text_corpus(100)), "top_k", level=0.2)
    np.testing.assert_allclose(result.savings.after_score, 0.5)
    read = Savings.load(result.savings.save(tmp_path / "savings.json"))
    np.testing.assert_array_equal(read.union_ratio, result.savings.union_ratio)


def test_of_long_windows_each_gives_its_own_first_tokens(monkeypatch):
    """Windows that overlap count from their middle on, and the first window from its begin: a batch must not matter."""
    monkeypatch.setattr(measuring_active_sets, "SET_TOKENS", 4)
    corpus = text_corpus(40, window=20, stride=10)
    subject = Subject(tiny_loaded("llama"), corpus)
    thresholds = subject.thresholds(make_rule("cett"), 0.3)
    counts = [np.zeros(site.n_neurons, np.int64) for site in subject.loaded.sites]
    totals = []
    for batch_size in (1, 3):
        observer = measuring_active_sets.ActiveSetObserver(subject.loaded.sites, counts)
        settings = PassSettings(batch_size=batch_size)
        mask = Mask(subject.loaded.sites, thresholds)
        totals.append(run_pass(subject.loaded, corpus, observer, mask, key="sets", settings=settings).totals)
    one, three = totals
    assert int(one.tokens) == int(three.tokens) == 4 * corpus.n_windows
    for a, b in zip(one.union, three.union, strict=True):
        assert torch.equal(a, b)
