"""Profile intervals against closed forms and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import linregress, t

from sparsing.laws import FORMS, simulate
from sparsing.laws.coefficient_intervals import (
    coefficient_interval,
    curve_interval,
    prediction_interval,
    profile_coefficient,
)
from sparsing.laws.fitting import fit_curve

from .series import X, line_fit


def independent_fit():
    """A series whose residuals show no positive correlation, so that textbook formulas hold."""
    return next(fitted for fitted in map(line_fit, range(20)) if fitted.noise.rho == 0)


def test_slope_interval_is_the_textbook_one():
    fitted = independent_fit()
    wanted = linregress(np.log(X), fitted.y)
    half = t.ppf(0.95, len(X) - 2) * wanted.stderr
    interval = coefficient_interval(fitted, 1, 0.9)
    assert interval.low_closed
    assert interval.high_closed
    assert (interval.low, interval.high) == pytest.approx(
        (wanted.slope - half, wanted.slope + half), rel=1e-4
    )


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


def test_correlation_widens_the_interval():
    def width(rho):
        intervals = [coefficient_interval(line_fit(seed, rho), 1, 0.9) for seed in range(20)]
        return np.mean([interval.high - interval.low for interval in intervals])

    assert width(0.6) > 1.4 * width(0.0)


def test_profile_is_lowest_at_the_best_value_and_crosses_at_the_ends():
    form = FORMS["silu"]
    points = simulate(form, {"alpha": 0.9, "c": 0.3, "A0": 0.385}, X, noise_sd=8e-4, seed=2)
    fitted = fit_curve(form, points.scaled, points.y)
    index = form.names.index("A0")
    interval = coefficient_interval(fitted, index, 0.9)
    low, high = interval.low, interval.high
    at, deviance = profile_coefficient(fitted, index, (low, high))
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
        interval = coefficient_interval(fit_curve(form, points.scaled, points.y), index, 0.9)
        hits += interval.low <= truth["A0"] <= interval.high
    # exact 99.8% range of a binomial(150, 0.9) is 123 to 145; correlated noise costs a few more
    assert 118 <= hits <= 146
