"""CETT against values worked out by hand and against a sum neuron by neuron."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsing.measuring.cett
from sparsing.measuring.cett import cett, norm, output_norm, site_cett, site_cett_above, site_norm
from sparsing.sites.neuron_output import neuron_output
from sparsing.sites.tap import Rows

from ..helpers.measuring import direct_cett, tiny_loaded

H, EYE = torch.tensor([[3.0, 4.0]]), torch.eye(2)


def at(threshold: float, h: torch.Tensor = H, weight: torch.Tensor = EYE) -> float:
    return cett(h, h.abs() > threshold, weight).item()


def test_by_hand():
    assert at(3.5) == pytest.approx(0.6)  # 3 of (3, 4) is dropped
    assert at(0.0) == 0.0
    assert at(2.9) == 0.0
    assert at(4.0) == 1.0
    assert at(9.0) == 1.0


def test_it_can_exceed_one_where_neurons_cancel():
    weight = torch.tensor([[1.0, -1.0]])  # y = h_0 - h_1 = -1
    assert at(3.5, weight=weight) == pytest.approx(3.0)
    assert at(5.0, weight=weight) == pytest.approx(1.0)


def test_nothing_dropped_of_size_is_zero_also_where_the_output_is_zero():
    h = torch.zeros(2, 3)
    weight = torch.ones(4, 3)
    assert cett(h, torch.zeros(2, 3, dtype=torch.bool), weight).tolist() == [0, 0]
    assert cett(h, torch.ones(2, 3, dtype=torch.bool), weight).tolist() == [0, 0]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0, 1))
def test_against_the_sum_neuron_by_neuron(seed, share):
    generator = torch.Generator().manual_seed(seed)
    h, weight = torch.randn(6, 9, generator=generator), torch.randn(4, 9, generator=generator)
    active = torch.rand(6, 9, generator=generator) < share
    error = cett(h, active, weight)
    assert error.shape == (6,)
    assert error.dtype == torch.float32
    torch.testing.assert_close(error.double(), direct_cett(h, active, weight), rtol=1e-4, atol=1e-6)
    assert torch.equal(error, cett(h, active, weight, output_norm(h, weight)))


def test_the_scale_of_the_activations_does_not_matter():
    h = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))
    active = h.abs() > 0.7
    torch.testing.assert_close(cett(h * 64, active, weight), cett(h, active, weight))


@pytest.mark.parametrize("entries", [1, 2**20], ids=["one-by-one", "together"])
@pytest.mark.parametrize("as_on_a_cpu", [True, False], ids=["sums-of-steps", "products"])
@pytest.mark.parametrize("zeros", [0.0, 0.8], ids=["no-zeros", "zeros"])
def test_several_thresholds_at_once(entries, as_on_a_cpu, zeros, monkeypatch):
    monkeypatch.setattr(sparsing.measuring.cett, "_ENTRIES", entries)
    monkeypatch.setattr(sparsing.measuring.cett, "on_cpu", lambda _: as_on_a_cpu)
    site = tiny_loaded("llama").sites[0]
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(7, site.d_ff, generator=generator)
    h[torch.rand(h.shape, generator=generator) < zeros] = 0
    h[3] = 0
    h[4, :5] = 0.4  # a size equal to a threshold is dropped
    rows, size, thresholds = Rows(h, h, (7,)), h.abs(), torch.tensor([0.0, 0.4, 0.4, 1.1, 9.0, 10.0])
    full = norm(neuron_output(site, h, rows))
    together = site_cett_above(site, rows, size, thresholds, full)
    assert together.shape == (6, 7)
    for errors, threshold in zip(together, thresholds, strict=True):
        expected = site_cett(site, rows, size > threshold, full)
        torch.testing.assert_close(errors, expected, rtol=1e-5, atol=1e-6)
    assert together[:, 3].tolist() == [0] * 6


@pytest.mark.parametrize("tokens", [0, 3])
def test_several_thresholds_without_a_neuron_to_add(tokens):
    site = tiny_loaded("llama").sites[0]
    h = torch.zeros(tokens, site.d_ff)
    errors = site_cett_above(site, Rows(h, h, (tokens,)), h, torch.tensor([0.4, 1.1]), torch.zeros(tokens))
    assert torch.equal(errors, torch.zeros(2, tokens))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_several_thresholds_in_other_precisions(dtype):
    site = tiny_loaded("llama").sites[0]
    site = dataclasses.replace(site, down_proj=copy.deepcopy(site.down_proj).to(dtype))
    h = torch.randn(7, site.d_ff, generator=torch.Generator().manual_seed(0)).to(dtype)
    rows, thresholds = Rows(h, h, (7,)), torch.tensor([0.4, 1.1])
    weight = site.weight.detach().double()
    errors = site_cett_above(site, rows, h.float().abs(), thresholds, site_norm(site, rows))
    expected = torch.stack([direct_cett(h.double(), h.float().abs() > t, weight) for t in thresholds])
    # the activations and weights are rounded, but no product is
    torch.testing.assert_close(
        errors.double(), expected, rtol=1e-12 if dtype == torch.float64 else 1e-5, atol=0
    )


def test_outputs_that_vanish_in_half_precision_have_errors():
    """In float16 the product is 0, and a finite error over it would be infinite."""
    site = tiny_loaded("llama").sites[0]
    site = dataclasses.replace(site, down_proj=copy.deepcopy(site.down_proj).half())
    site.down_proj.weight.data.mul_(0.1)
    h = torch.zeros(2, site.d_ff).half()
    h[:, 3] = 1e-7
    rows = Rows(h, h, (2,))
    assert neuron_output(site, h, rows).abs().max() == 0
    errors = site_cett_above(site, rows, h.float(), torch.tensor([1.0]), site_norm(site, rows))
    torch.testing.assert_close(errors, torch.ones(1, 2))


def test_more_thresholds_than_a_byte_counts_and_a_transposed_weight():
    site = tiny_loaded("gpt2").sites[0]
    assert site.transposed
    h = torch.randn(5, site.d_ff, generator=torch.Generator().manual_seed(0))
    rows, thresholds = Rows(h, h, (5,)), torch.linspace(0, 4, 300)
    errors = site_cett_above(site, rows, h.abs(), thresholds, site_norm(site, rows))
    expected = torch.stack([direct_cett(h, h.abs() > t, site.weight.detach()) for t in thresholds])
    torch.testing.assert_close(errors.double(), expected, rtol=1e-5, atol=1e-6)
