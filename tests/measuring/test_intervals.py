"""Intervals: they cover the truth about as often as they say, and one window has none."""

from __future__ import annotations

import numpy as np
import pytest

from sparsing.measuring.intervals import (
    RESAMPLES,
    percentiles,
    ratio_interval,
    relative_sampling_sd,
    resampled,
    student_factor,
)


def test_a_single_window_says_nothing_of_its_spread():
    assert ratio_interval(np.array([1.0]), np.array([2.0])) is None


def test_windows_that_agree_leave_no_doubt():
    low, high = ratio_interval(np.full(9, 3.0), np.full(9, 4.0))
    assert low == high == 0.75


def test_it_is_the_same_each_time_and_the_seed_matters():
    rng = np.random.default_rng(0)
    top, bottom = rng.random(20), np.ones(20)
    assert ratio_interval(top, bottom) == ratio_interval(top, bottom)
    assert ratio_interval(top, bottom) != ratio_interval(top, bottom, seed=1)


def test_its_width_is_that_of_the_mean():
    values = np.random.default_rng(1).normal(5.0, 2.0, 400)
    low, high = ratio_interval(values, np.ones(400))
    error = values.std() / 20
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.5 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.5 * error)


def test_it_covers_the_truth_about_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr("sparsing.measuring.intervals.RESAMPLES", 300)
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(150):
        bottom = rng.integers(20, 100, 40)
        low, high = ratio_interval(rng.binomial(bottom, 0.3), bottom)
        hits += low <= 0.3 <= high
    assert 0.88 <= hits / 150 <= 0.99


def test_windows_weigh_by_their_tokens_and_empty_ones_not_at_all():
    low, high = ratio_interval(np.array([10.0, 0.0, 0.0]), np.array([100, 0, 0]))
    assert low == high == pytest.approx(0.1)


def test_columns_of_a_resample_share_their_windows():
    values = np.random.default_rng(3).random(12)
    sums = resampled(np.stack([values, 2 * values, np.ones(12)], axis=1))
    assert sums.shape == (RESAMPLES, 3)
    np.testing.assert_allclose(sums[:, 1], 2 * sums[:, 0])
    assert (sums[:, 2] == 12).all()


def test_percentiles_are_expanded_for_few_units():
    values = np.linspace(0, 1, 1001)
    assert percentiles(values) == pytest.approx((0.025, 0.975))
    assert percentiles(values, 1000) == pytest.approx((0.025, 0.975), abs=1e-3)
    low, high = percentiles(values, 5)
    assert low < 0.005
    assert high > 0.995


def test_blocks_take_the_dependence_of_neighbours_into_account():
    """Windows of a text that drifts: single windows promise too narrow an interval, blocks of them cover."""
    rng = np.random.default_rng(5)
    hits = {True: 0, False: 0}
    for _ in range(200):
        noise = rng.normal(size=66)
        values = 5 + np.convolve(noise, [0.6, 0.5, 0.4], mode="valid")  # (64,), neighbours share noise
        for blocks in hits:
            if blocks:
                low, high = ratio_interval(values, np.ones(64))
            else:
                low, high = percentiles(resampled(values[:, None])[:, 0] / 64)
            hits[blocks] += low <= 5 <= high
    assert hits[True] / 200 >= 0.85
    assert hits[False] / 200 < hits[True] / 200


def test_the_sampling_error_is_that_of_the_mean():
    values = np.random.default_rng(7).normal(5.0, 2.0, 2000)
    assert relative_sampling_sd(values, np.ones(2000)) == pytest.approx(2 / np.sqrt(2000) / 5, rel=0.15)
    assert relative_sampling_sd(np.ones(1), np.ones(1)) == 0.0


def test_the_factor_of_student_falls_to_one():
    assert student_factor(2) == pytest.approx(12.706 / 1.960, rel=1e-3)
    assert student_factor(8) == pytest.approx(2.365 / 1.960, rel=1e-3)
    assert student_factor(10_000) == pytest.approx(1, abs=1e-3)
