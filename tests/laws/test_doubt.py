"""Noise, profile intervals and bootstrap against closed forms and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import linregress, multivariate_normal, t

from sparsing.laws import FORMS, simulate
from sparsing.laws.coefficient_intervals import (
    coefficient_interval,
    curve_interval,
    prediction_interval,
    profile,
)
from sparsing.laws.fitting import least_squares_fit
from sparsing.laws.noise import ar1, effective_points, log_likelihood
from sparsing.laws.residual_bootstrap import block_length, bootstrap

X = np.linspace(2.0, 200.0, 40)
LINE = {"a": 0.11, "b": -0.008}


def line_fit(seed: int, rho: float = 0.0):
    points = simulate(FORMS["log_line"], LINE, X, noise_sd=4e-4, rho=rho, seed=seed)
    return least_squares_fit(FORMS["log_line"], points.scaled, points.y)


def independent_fit():
    """A series whose residuals show no positive correlation, so that textbook formulas hold."""
    return next(fitted for fitted in map(line_fit, range(20)) if fitted.noise.rho == 0)


def test_slope_interval_is_the_textbook_one():
    fitted = independent_fit()
    wanted = linregress(np.log(X), fitted.y)
    half = t.ppf(0.95, len(X) - 2) * wanted.stderr
    low, high, low_closed, high_closed = coefficient_interval(fitted, 1, 0.9)
    assert low_closed
    assert high_closed
    assert (low, high) == pytest.approx((wanted.slope - half, wanted.slope + half), rel=1e-4)


def test_prediction_interval_is_the_textbook_one():
    fitted, at = independent_fit(), 900.0
    u = np.log(X)
    scatter = fitted.noise.sd**2 * (1 / len(X) + (np.log(at) - u.mean()) ** 2 / ((u - u.mean()) ** 2).sum())
    best = fitted.form.evaluate(np.array([at]), fitted.best.theta)[0]
    quantile = t.ppf(0.95, len(X) - 2)
    law = best + np.array([-1, 1]) * quantile * np.sqrt(scatter)
    new = best + np.array([-1, 1]) * quantile * np.sqrt(scatter + fitted.noise.sd**2)
    assert curve_interval(fitted, at, 0.9) == pytest.approx(tuple(law), rel=1e-4)
    assert prediction_interval(fitted, at, 0.9) == pytest.approx(tuple(new), rel=1e-4)


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_noise_is_found_without_bias(rho):
    found = [line_fit(seed, rho).noise for seed in range(60)]
    assert np.mean([noise.sd for noise in found]) == pytest.approx(4e-4, rel=0.08)
    # a negative estimate counts as 0, which lifts the mean at rho = 0
    assert np.mean([noise.rho for noise in found]) == pytest.approx(rho, abs=0.1)


def test_correlation_widens_the_interval():
    def width(rho):
        ends = [coefficient_interval(line_fit(seed, rho), 1, 0.9) for seed in range(20)]
        return np.mean([high - low for low, high, *_ in ends])

    assert width(0.6) > 1.4 * width(0.0)


def test_log_likelihood_is_the_gaussian_one():
    rng = np.random.default_rng(3)
    residual = np.linalg.cholesky(ar1(25, 0.4)) @ rng.standard_normal(25)

    def exact(rho):
        whitened = residual @ np.linalg.solve(ar1(25, rho), residual)
        return multivariate_normal(cov=whitened / 25 * ar1(25, rho)).logpdf(residual)

    wanted = max(exact(rho) for rho in np.linspace(0, 0.94, 400))
    assert log_likelihood(residual) == pytest.approx(wanted, abs=1e-3)
    assert log_likelihood(residual, correlated=False) == pytest.approx(exact(0.0), abs=1e-9)


def test_effective_points():
    assert effective_points(30, 0.0) == 30
    assert effective_points(1000, 0.5) == pytest.approx(1000 / 3, rel=0.01)


def test_block_bootstrap_agrees_with_the_profile():
    fitted = line_fit(0, 0.3)
    draws = bootstrap(fitted, num_resamples=300, seed=1)
    assert draws.shape == (300, 2)
    low, high, *_ = coefficient_interval(fitted, 1, 0.9)
    boot_low, boot_high = np.quantile(draws[:, 1], [0.05, 0.95])
    assert (boot_high - boot_low) == pytest.approx(high - low, rel=0.45)
    np.testing.assert_array_equal(draws, bootstrap(fitted, num_resamples=300, seed=1))


def test_blocks_grow_with_the_correlation():
    lengths = [block_length(40, rho) for rho in (0.0, 0.3, 0.6, 0.9)]
    assert lengths == sorted(lengths)
    assert lengths[0] == 3
    assert lengths[-1] == 13


def test_profile_is_lowest_at_the_best_value_and_crosses_at_the_ends():
    form = FORMS["silu"]
    points = simulate(form, {"alpha": 0.9, "c": 0.3, "A0": 0.385}, X, noise_sd=8e-4, seed=2)
    fitted = least_squares_fit(form, points.scaled, points.y)
    index = form.names.index("A0")
    low, high, *_ = coefficient_interval(fitted, index, 0.9)
    at, deviance = profile(fitted, index, (low, high))
    assert at[np.argmin(deviance)] == pytest.approx(fitted.best.theta[index], abs=(high - low) / 20)
    assert np.interp([low, high], at, deviance) == pytest.approx(fitted.cutoff(0.9), rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "truth", "noise_sd"),
    [
        ("relu", {"alpha": 1.01, "b": -3.49, "c": 0.00797, "A0": 0.0721}, 3e-4),
        ("silu", {"alpha": 0.844, "c": 0.208, "A0": 0.39}, 8e-4),
    ],
)
@pytest.mark.parametrize("rho", [0.0, 0.4])
def test_ninety_percent_intervals_cover(name, truth, noise_sd, rho):
    form = FORMS[name]
    x = np.linspace(11.35, 272.4, 24) if name == "relu" else np.linspace(2.8, 92.8, 33)
    index, hits = form.names.index("A0"), 0
    for seed in range(150):
        points = simulate(form, truth, x, noise_sd=noise_sd, rho=rho, seed=seed)
        low, high, *_ = coefficient_interval(least_squares_fit(form, points.scaled, points.y), index, 0.9)
        hits += low <= truth["A0"] <= high
    # exact 99.8% range of a binomial(150, 0.9) is 123 to 145; correlated noise costs a few more
    assert 118 <= hits <= 146
