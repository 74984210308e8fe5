"""The block bootstrap agrees with the profile interval and repeats itself for a seed."""

from __future__ import annotations

import numpy as np
import pytest

from sparsing.laws.coefficient_intervals import coefficient_interval
from sparsing.laws.residual_bootstrap import block_length, bootstrap_parameters

from .series import line_fit


def test_block_bootstrap_agrees_with_the_profile():
    fitted = line_fit(0, 0.3)
    draws = bootstrap_parameters(fitted, num_resamples=300, seed=1)
    assert draws.shape == (300, 2)
    interval = coefficient_interval(fitted, 1, 0.9)
    boot_low, boot_high = np.quantile(draws[:, 1], [0.05, 0.95])
    assert (boot_high - boot_low) == pytest.approx(interval.high - interval.low, rel=0.45)
    np.testing.assert_array_equal(draws, bootstrap_parameters(fitted, num_resamples=300, seed=1))


def test_blocks_grow_with_the_correlation():
    lengths = [block_length(40, rho) for rho in (0.0, 0.3, 0.6, 0.9)]
    assert lengths == sorted(lengths)
    assert lengths[0] == 3
    assert lengths[-1] == 13
