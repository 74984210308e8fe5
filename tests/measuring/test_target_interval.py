"""Activation ratios and intervals that are moved along a curve to the target."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sparsing.measuring.observation import Observation
from sparsing.measuring.search_result import SearchResult
from sparsing.measuring.target_interval import scaled_ratios, target_interval


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.1, 1.5, 9.0])
def test_the_mean_follows_the_factor_and_no_ratio_exceeds_one(factor):
    ratios = np.array([[0.95, 0.5, 0.3], [0.2, 0.2, 0.2]])
    scaled = scaled_ratios(ratios, np.full((2, 1), factor))
    np.testing.assert_allclose(scaled.mean(-1), np.minimum(ratios.mean(-1) * factor, 1.0), rtol=1e-3)
    assert (scaled <= 1).all()
    assert (np.diff(scaled[0]) <= 0).all()


def test_without_a_full_site_all_ratios_have_the_same_factor():
    ratios = np.array([0.4, 0.1])
    np.testing.assert_allclose(scaled_ratios(ratios, np.array([0.7])), 0.7 * ratios)


def width(share: float, *, moved: bool = True) -> float:
    """Width of the interval from a pass at `share` of the target rise, whose windows scatter by a half."""
    labels = np.full(64, 100.0)
    uneven = np.random.default_rng(0).standard_normal(64)
    rise = labels * 0.01 * share * (1 + 0.5 * (uneven - uneven.mean()))
    observed = Observation(strength=share**0.5, rise=rise, labels=labels, on_all=True)
    found = SearchResult(
        level=share**0.5,
        ppl_ratio=math.exp(0.01 * share),
        target_ppl_ratio=math.exp(0.01),
        converged=moved,
        monotone=True,
        slope=2.0,
        tries=(),
        fitted_strength=1.0 if moved else None,
    )
    low, high = target_interval(np.full(64, 50.0), labels, observed, found, lambda shift: np.exp(-shift))
    return (high - low) / (high + low)


def test_a_pass_above_the_target_has_too_small_a_sampling_error_for_it():
    """The relative error of the rise falls as the rise grows, so the interval at the target is wider."""
    at_target = width(1.0)
    assert width(2.0) == pytest.approx(at_target * 2**0.4, rel=0.03)
    assert width(0.5) == pytest.approx(at_target * 0.5**0.4, rel=0.03)
    assert width(10.0, moved=False) == pytest.approx(at_target, rel=0.03), "its figures stay at the pass"
