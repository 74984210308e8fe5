"""Measurements of routed experts against explicit experts, neuron by neuron, in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sparsing.measuring._measure import measure
from sparsing.measuring.subject import Subject
from sparsing.text.corpus import load_corpus

from ..helpers.explicit_experts import ExplicitModel
from ..helpers.measuring import loaded, random_text, text_corpus
from ..helpers.tiny import tiny_tokenizer
from ..helpers.tiny_experts import D_EXPERT, N_EXPERTS, SIZES, TOP_K, build_experts

EXACT = {"rel": 1e-9, "abs": 1e-12}


def explicit_figures(model, corpus, thresholds, drop):
    """Per site: counts of active neurons by expert, load, mean error; and the summed loss. One window at a time."""
    explicit = ExplicitModel(model.model, model.sites, thresholds)
    explicit.drop = drop
    figures = {
        site.name: {"active": np.zeros(site.n_experts), "load": np.zeros(site.n_experts), "error": []}
        for site in model.sites
    }
    joint = {site.name: [] for site in model.sites}
    loss = 0.0
    for batch in corpus.batches(1):
        ids = batch.ids[0][batch.real[0]]
        logits = explicit.run(ids).double()
        loss -= float(torch.log_softmax(logits[:-1], -1)[torch.arange(len(ids) - 1), ids[1:]].sum())
        for site in model.sites:
            own = figures[site.name]
            for (_, expert), active in explicit.active[site.name].items():
                own["load"][expert] += 1
                own["active"][expert] += int(active.sum())
            own["error"] += explicit.error[site.name]
        for routed in (site for site in model.sites if site.kind == "expert"):
            for shared in model.sites:
                if shared is not routed and shared.name.startswith(f"{routed.block}."):
                    pairs = zip(explicit.parts[routed.name], explicit.parts[shared.name], strict=True)
                    joint[routed.name] += [float((a + c).norm() / (b + d).norm()) for (a, b), (c, d) in pairs]
    return figures, joint, loss


@pytest.mark.parametrize("per_expert", [False, True])
def test_curves_weigh_experts_by_what_a_token_reads(per_expert):
    """A budget over all sites (TEAL) would otherwise give 128 experts of which 8 run 16 times their weight."""
    model = loaded(build_experts("deepseek_v3"))
    subject = Subject(model, text_corpus(200, window=20), scores=["neuron_norm"], per_expert=per_expert)
    curve = subject.curves["neuron_norm"]
    for site in model.sites:
        own = [w for name, w in zip(curve.sites, curve.weights, strict=True) if name.startswith(site.name)]
        assert sum(own) == pytest.approx(
            site.d_model * site.d_ff * (TOP_K if site.kind == "expert" else 1), rel=0.01
        )


@pytest.mark.parametrize("model_type", sorted(SIZES))
@pytest.mark.parametrize("per_expert", [False, True])
def test_a_measurement_equals_explicit_experts(model_type, per_expert):
    model = loaded(build_experts(model_type))
    corpus = text_corpus(60, window=20)
    # one window at a time, since parts of Llama 4 and Nemotron-H compute in float32, whose bits depend on the batch
    subject = Subject(model, corpus, scores=["neuron_norm"], per_expert=per_expert, batch_size=1)
    result = measure(subject, "cett", level=0.3)
    numbers = result.thresholds.for_sites(model.sites)
    thresholds = {
        site.name: list(own) if len(own) > 1 else own[0]
        for site, own in zip(model.sites, numbers, strict=True)
    }
    assert per_expert == any(isinstance(value, list) for value in thresholds.values())

    figures, _, sparse = explicit_figures(model, corpus, thresholds, drop=True)
    dense_figures, joint, dense = explicit_figures(model, corpus, thresholds, drop=False)
    tokens = corpus.num_tokens
    wanted = math.exp((sparse - dense) / (tokens - corpus.n_windows))
    # Nemotron-H rounds its logits to float32
    assert result.ppl_ratio == pytest.approx(wanted, rel=1e-7 if model_type == "nemotron_h" else 1e-9)
    routed = {activity.site: activity for activity in result.experts}
    for index, site in enumerate(model.sites):
        own = figures[site.name]
        width = site.d_ff * (TOP_K if site.kind == "expert" else 1)
        assert result.layer_activation_ratio[index] == pytest.approx(
            own["active"].sum() / (tokens * width), **EXACT
        )
        assert result.cett_sparse_inputs[index] == pytest.approx(np.mean(own["error"]), **EXACT)
        assert result.cett_dense_inputs[index] == pytest.approx(
            np.mean(dense_figures[site.name]["error"]), **EXACT
        )
        if site.kind == "ffn":
            assert site.name not in routed
            continue
        activity = routed[site.name]
        assert activity.activation_ratio == pytest.approx(result.layer_activation_ratio[index], **EXACT)
        assert activity.activation_ratio_of_all == pytest.approx(
            own["active"].sum() / (tokens * N_EXPERTS * D_EXPERT), **EXACT
        )
        np.testing.assert_allclose(activity.expert_load, own["load"] / tokens, rtol=1e-12)
        assert activity.expert_load.sum() == pytest.approx(TOP_K)
        with np.errstate(invalid="ignore"):
            per = own["active"] / (own["load"] * D_EXPERT)
        np.testing.assert_allclose(activity.expert_activation_ratio, per, rtol=1e-12)
        if joint[site.name]:
            assert activity.cett_with_shared == pytest.approx(np.mean(joint[site.name]), rel=1e-6)
        else:
            assert activity.cett_with_shared is None


def measured(model, batch_size, order, *, per_expert):
    """A measurement of texts of different lengths, which are padded in a batch."""
    texts = [random_text(n, seed=n) for n in (9, 31, 20, 14)]
    corpus = load_corpus([texts[i] for i in order], tiny_tokenizer(), window=32, documents=True)
    subject = Subject(model, corpus, scores=["neuron_norm"], per_expert=per_expert, batch_size=batch_size)
    return measure(subject, "cett", level=0.3)


@pytest.mark.parametrize("model_type", sorted(SIZES))
def test_batches_padding_and_order_change_nothing(model_type):
    model = loaded(build_experts(model_type))
    # parts of Llama 4 and Nemotron-H compute in float32, whose bits depend on the batch, and so do some routers
    rounded = {"llama4_text": 1e-5, "nemotron_h": 1e-5, "deepseek_v3": 1e-7, "glm4_moe": 1e-7}
    exact = {"rtol": rounded.get(model_type, 1e-10)}
    wanted = measured(model, 1, range(4), per_expert=True)
    for batch_size, order in ((4, range(4)), (3, (2, 0, 3, 1))):
        result = measured(model, batch_size, order, per_expert=True)
        np.testing.assert_allclose(result.thresholds.numbers, wanted.thresholds.numbers, **exact)
        np.testing.assert_allclose(result.ppl_ratio, wanted.ppl_ratio, **exact)
        for name in ("layer_activation_ratio", "cett_dense_inputs", "cett_sparse_inputs", "neuron_frequency"):
            np.testing.assert_allclose(getattr(result, name), getattr(wanted, name), **exact, err_msg=name)
        for own, other in zip(result.experts, wanted.experts, strict=True):
            np.testing.assert_array_equal(own.expert_load, other.expert_load)
            np.testing.assert_allclose(own.expert_activation_ratio, other.expert_activation_ratio, **exact)
            if other.cett_with_shared is not None:
                np.testing.assert_allclose(own.cett_with_shared, other.cett_with_shared, **exact)


@pytest.mark.parametrize("per_expert", [False, True])
def test_experts_without_a_token_and_ties_of_the_router(per_expert):
    """A router of equal weights sends every token to the same experts; the others have no token and no figure."""
    model = build_experts("mixtral")
    for layer in model.model.layers:
        layer.mlp.gate.weight.data.zero_()
    whole = loaded(model)
    result = measured(whole, 1, range(4), per_expert=per_expert)
    for activity in result.experts:
        assert sorted(activity.expert_load.tolist()) == [0, 0, 1, 1]
        assert np.isnan(activity.expert_activation_ratio).tolist() == (activity.expert_load == 0).tolist()
        busy = activity.expert_activation_ratio[activity.expert_load == 1]
        assert activity.activation_ratio == pytest.approx(busy.mean())
        assert activity.activation_ratio_of_all == pytest.approx(busy.sum() / N_EXPERTS)
    assert np.isfinite(result.thresholds.numbers).all()
    frequency = result.neuron_frequency.reshape(2, N_EXPERTS, D_EXPERT)
    unused = [activity.expert_load == 0 for activity in result.experts]
    assert not frequency[np.array(unused)].any()
    assert measured(whole, 3, (3, 1, 0, 2), per_expert=per_expert).ppl_ratio == pytest.approx(
        result.ppl_ratio, rel=1e-10
    )
