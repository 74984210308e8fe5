"""Routed experts: sites, rows against explicit experts in float64, and what taps leave behind."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from sparsing import find_sites
from sparsing.errors import UnsupportedModelError
from sparsing.sites.neuron_output import neuron_output
from sparsing.sites.tap import Rows, tapped

from ..helpers.explicit_experts import explicit_rows
from ..helpers.tiny import tiny_input
from ..helpers.tiny_experts import D_EXPERT, N_EXPERTS, SIZES, TOP_K, build_experts

TYPES = pytest.mark.parametrize("model_type", sorted(SIZES))


def routed(model: nn.Module):
    return [site for site in find_sites(model) if site.kind == "expert"]


@TYPES
def test_the_experts_of_a_layer_are_one_site(model_type):
    sites = routed(build_experts(model_type))
    assert sites
    for site in sites:
        assert (site.n_experts, site.top_k, site.d_ff, site.d_model) == (N_EXPERTS, TOP_K, D_EXPERT, 32)
        assert (site.n_neurons, site.width) == (N_EXPERTS * D_EXPERT, TOP_K * D_EXPERT)
        assert site.name.endswith(".experts")
        assert site.name.startswith(f"{site.block}.")
        assert f".{site.layer}." in site.name


@pytest.mark.parametrize(("model_type", "shared"), [("deepseek_v3", 2), ("glm4_moe", 2), ("llama4_text", 2)])
def test_shared_experts_and_dense_layers_are_ordinary_sites(model_type, shared):
    sites = find_sites(build_experts(model_type))
    assert [site.kind for site in sites].count("ffn") == shared
    assert [site.layer for site in sites] == sorted(site.layer for site in sites)


@TYPES
def test_rows_are_those_of_explicit_experts(model_type):
    """Each row against the expert's own matrices applied to the token: gate, h, weight, and the sum of the layer."""
    model = build_experts(model_type)
    sites = routed(model)
    seen: dict[int, Rows] = {}
    sums: dict[int, torch.Tensor] = {}
    with (
        explicit_rows(model, sites) as expected,
        torch.no_grad(),
        tapped(sites, seen.__setitem__, gate=True, see_output=sums.__setitem__),
    ):
        model(tiny_input())
    assert list(seen) == list(range(len(sites)))
    for index, site in enumerate(sites):
        rows, wanted = seen[index], expected[site.name]
        assert rows.routing is not None
        assert rows.routing.n_tokens == 32
        assert len(rows.h) == 32 * TOP_K
        for i, (token, expert) in enumerate(
            zip(rows.routing.token.tolist(), rows.routing.expert.tolist(), strict=True)
        ):
            gate, h, weight, _ = wanted[token, expert]
            assert torch.allclose(rows.gate[i], gate, rtol=1e-9, atol=1e-12)
            assert torch.allclose(rows.h[i], h, rtol=1e-9, atol=1e-12)
            assert float(rows.routing.weight[i]) == pytest.approx(float(weight), rel=1e-9)
        total = torch.stack(
            [
                sum(weight * y for (t, _), (_, _, weight, y) in wanted.items() if t == token)
                for token in range(32)
            ]
        )
        assert torch.allclose(sums[index], total, rtol=1e-9, atol=1e-12)
        bias = 0 if site.bias is None else rows.routing.weighted_sums(site.bias[rows.routing.expert])
        assert torch.allclose(neuron_output(site, rows.h, rows) + bias, total, rtol=1e-9, atol=1e-12)


@TYPES
@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_a_tap_changes_no_bit(model_type, implementation):
    model = build_experts(model_type, dtype=torch.float32)
    if model_type != "llama4_text":  # the only one without the experts interface
        model.set_experts_implementation(implementation)
    elif implementation != "eager":
        pytest.skip("Llama 4 computes its experts in one way only")
    with torch.no_grad():
        before = model(tiny_input()).logits
        with tapped(find_sites(model), lambda _, rows: rows.h.clone(), gate=True):
            tapped_logits = model(tiny_input()).logits
        assert torch.equal(tapped_logits, before)
        assert torch.equal(model(tiny_input()).logits, before)


def test_taps_of_one_module_see_each_others_changes_and_go_in_any_order():
    model = build_experts("mixtral")
    sites = find_sites(model)
    seen = []
    outer = tapped(sites, lambda _, rows: rows.h * 2, gate=False)
    inner = tapped(sites, lambda index, rows: seen.append(rows.h), gate=False)
    alone = []
    with torch.no_grad():
        with tapped(sites[:1], lambda index, rows: alone.append(rows.h), gate=False):
            model(tiny_input())
        outer.__enter__()
        inner.__enter__()
        model(tiny_input())
        outer.__exit__(None, None, None)
        model(tiny_input())
        inner.__exit__(None, None, None)
    assert torch.equal(seen[0], alone[0] * 2)
    assert torch.equal(seen[len(sites)], alone[0])
    assert not any("forward" in vars(site.down_proj) for site in sites)


def test_taps_go_after_an_exception():
    model = build_experts("mixtral")

    def fail(index, rows):
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"), tapped(find_sites(model), fail, gate=True):
        model(tiny_input())
    assert not any("forward" in vars(module) for module in model.modules())


def test_rows_of_some_tokens_are_numbered_anew():
    model = build_experts("olmoe")
    site = find_sites(model)[0]
    seen = []
    with torch.no_grad(), tapped([site], lambda _, rows: seen.append(rows), gate=True):
        model(tiny_input())
    (rows,) = seen
    chosen = torch.tensor([3, 17, 4])
    part = rows.of_tokens(chosen)
    assert part.routing.n_tokens == 3
    whole = neuron_output(site, rows.h, rows)
    assert torch.allclose(neuron_output(site, part.h, part), whole[chosen], rtol=1e-12)
    joined = Rows.joined([part, rows])
    assert torch.allclose(
        neuron_output(site, joined.h, joined), torch.cat([whole[chosen], whole]), rtol=1e-12
    )
    assert torch.equal(rows.per_row(rows.per_token(rows.h)), rows.h)


def test_experts_that_compute_something_else_are_refused():
    class Scaled(nn.Module):
        """Experts without the flags of the interface whose output is clipped."""

        def __init__(self, experts):
            super().__init__()
            self.gate_up_proj, self.down_proj, self.act_fn = (
                experts.gate_up_proj,
                experts.down_proj,
                experts.act_fn,
            )

        def forward(self, hidden_states, top_k_index, top_k_weights):
            sums = torch.zeros_like(hidden_states)
            for place in range(top_k_index.shape[1]):
                for token, expert in enumerate(top_k_index[:, place]):
                    gate, up = (self.gate_up_proj[expert] @ hidden_states[token]).chunk(2)
                    y = self.down_proj[expert] @ (self.act_fn(gate) * up)
                    sums[token] += y * top_k_weights[token, place]
            return self.last(sums)

        def last(self, sums):
            return sums

    model = build_experts("mixtral")
    block = model.model.layers[1].mlp
    block.experts = Scaled(block.experts)
    assert [site.n_experts for site in find_sites(model)] == [N_EXPERTS] * 2
    block.experts = Scaled(build_experts("mixtral").model.layers[1].mlp.experts)
    block.experts.last = lambda sums: sums.clamp(-1e-4, 1e-4)
    with pytest.raises(
        UnsupportedModelError, match=r"model\.layers\.1\.mlp\.experts: Scaled does not compute"
    ):
        find_sites(model)


def test_experts_behind_a_norm_are_refused():
    model = build_experts("mixtral")
    model.model.layers[0].mlp.experts.has_post_expert_norm = True
    with pytest.raises(UnsupportedModelError, match="no sum over neurons"):
        find_sites(model)


def test_an_expert_without_a_token_and_ties_of_the_router():
    """A router of equal weights: every token goes to the same experts, and the others have no row."""
    model = build_experts("mixtral")
    site = find_sites(model)[0]
    model.model.layers[0].mlp.gate.weight.data.zero_()
    seen = []
    with torch.no_grad(), tapped([site], lambda _, rows: seen.append(rows), gate=True):
        model(tiny_input())
    (rows,) = seen
    assert sorted(rows.routing.sizes) == [0, 0, 32, 32]
    assert torch.equal(rows.routing.weight, torch.full_like(rows.routing.weight, 0.5))
    counts = rows.routing.counts_per_expert(rows.h != 0)
    assert counts.shape == (N_EXPERTS, D_EXPERT)
    assert (counts.sum(1) > 0).tolist() == [size > 0 for size in rows.routing.sizes]
    half = dataclasses.replace(rows, h=rows.h * 0.5)
    assert torch.allclose(neuron_output(site, half.h, rows) * 2, neuron_output(site, rows.h, rows))
