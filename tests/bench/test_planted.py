"""Planted weights have the requested activation ratio and distribution of frequencies, on tokens that differ."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import norm

from sparsing.bench.planted import SPREAD, plant_block
from sparsing.decode.kernels.cuts import no_cuts
from sparsing.decode.kernels.packing import to_int8
from sparsing.decode.kernels.plain import hidden
from sparsing.errors import InputError


@pytest.fixture(scope="module")
def planted():
    return plant_block(128, 2000)


def active(planted, ratio, tokens=600, packed=None):
    packed = packed or planted.packed
    return hidden(packed, planted.inputs(tokens, ratio, seed=1), no_cuts(packed.d_ff)) != 0


@pytest.mark.parametrize("ratio", [0.02, 0.065, 0.4, 0.7, 1.0])
def test_the_ratio_is_as_requested(planted, ratio):
    assert active(planted, ratio).float().mean().item() == pytest.approx(ratio, rel=0.1, abs=1e-3)


def test_the_ratio_survives_int8(planted):
    assert active(planted, 0.065, packed=to_int8(planted.packed)).float().mean().item() == pytest.approx(
        0.065, rel=0.1
    )


def test_the_distribution_is_as_requested(planted):
    """Quantiles of the frequency over neurons. On 600 tokens, the counting error is 0.02 at a frequency of 0.3."""
    at = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64)
    counted = active(planted, 0.065).double().mean(0).quantile(at)
    level = math.sqrt(1 + SPREAD**2) * norm.ppf(0.065)
    expected = norm.cdf(level + SPREAD * norm.ppf(at.numpy()))
    assert counted.numpy() == pytest.approx(expected, rel=0.25, abs=2e-3)
    assert expected[-1] / expected[0] > 15  # broad


def test_without_spread_all_neurons_are_alike():
    flat = active(plant_block(128, 500, spread=0.0), 0.2, tokens=2000).float().mean(0)
    assert flat.std().item() == pytest.approx((0.2 * 0.8 / 2000) ** 0.5, rel=0.3)  # counting noise alone


def test_tokens_differ(planted):
    """Two tokens share more neurons than by chance, since some neurons are frequent, but far from all."""
    sets = active(planted, 0.065).float()
    shared = (sets[:300] * sets[300:]).sum(1).mean() / sets.sum(1).mean()
    assert 0.065 < shared.item() < 0.3


def test_the_seed_decides():
    first, again, other = (
        plant_block(32, 64, seed=3),
        plant_block(32, 64, seed=3),
        plant_block(32, 64, seed=4),
    )
    assert torch.equal(first.packed.gate, again.packed.gate)
    assert not torch.equal(first.packed.gate, other.packed.gate)
    assert torch.equal(first.inputs(5, 0.1, seed=0), again.inputs(5, 0.1, seed=0))
    assert not torch.equal(first.inputs(5, 0.1, seed=0), first.inputs(5, 0.1, seed=1))


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.5])
def test_an_impossible_ratio_is_rejected(planted, ratio):
    with pytest.raises(InputError, match="in \\(0, 1\\]"):
        planted.inputs(4, ratio, seed=0)


def test_an_impossible_shape_is_rejected():
    with pytest.raises(InputError, match="d_model >= 4"):
        plant_block(2, 8)
