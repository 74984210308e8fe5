"""Activation ratios that are moved along a curve: the mean follows the factor, and no site exceeds all its neurons."""

from __future__ import annotations

import numpy as np
import pytest

from sparsing.measuring.target_interval import scaled_ratios


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
