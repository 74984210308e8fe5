"""Measurements of routed experts against explicit experts, neuron by neuron, in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sparsing.measuring._measure import measure
from sparsing.measuring.subject import Subject

from ..helpers.explicit_experts import ExplicitModel
from ..helpers.measuring import loaded, text_corpus
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
