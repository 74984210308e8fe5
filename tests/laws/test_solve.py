"""Variable projection against scipy: bounds, held parameters, and a point that the curve must meet."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import curve_fit, lsq_linear

from sparsing.laws import FORMS
from sparsing.laws.solve import Problem, bounded_lstsq, solve

X = np.linspace(2.0, 200.0, 30)


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("seed", range(20))
def test_bounds_agree_with_scipy(columns, seed):
    rng = np.random.default_rng(seed)
    design, y = rng.normal(size=(12, columns)), rng.normal(size=12)
    low, high = np.sort(rng.normal(size=(2, columns)), axis=0)
    weights, rss = bounded_lstsq(design, y, low, high)
    wanted = lsq_linear(design, y, (low, high), method="bvls", tol=1e-14)
    assert rss == pytest.approx(2 * wanted.cost, rel=1e-8)
    np.testing.assert_allclose(weights, wanted.x, atol=1e-6)


def test_many_designs_at_once_equal_single_designs():
    rng = np.random.default_rng(0)
    designs, y = rng.normal(size=(50, 12, 2)), rng.normal(size=12)
    weights, rss = bounded_lstsq(designs, y, np.array([0.0, -np.inf]), np.array([0.1, 0.2]))
    for design, weight, total in zip(designs, weights, rss, strict=True):
        single, single_rss = bounded_lstsq(design, y, np.array([0.0, -np.inf]), np.array([0.1, 0.2]))
        np.testing.assert_allclose(weight, single)
        assert total == pytest.approx(single_rss)


def test_no_worse_than_curve_fit_from_the_truth():
    form = FORMS["relu"]
    truth = {"alpha": 0.7, "b": -3.4, "c": 0.05, "A0": 0.07}
    for seed in range(5):
        y = form.curve(X, truth) + 3e-4 * np.random.default_rng(seed).standard_normal(len(X))

        def law(x, alpha, b, c, a0):
            return np.exp(-c * x**alpha + b) + a0

        best, _ = curve_fit(law, X, y, p0=tuple(truth.values()), maxfev=20000)
        curve_fit_rss = float(((y - law(X, *best)) ** 2).sum())
        assert solve(Problem(form=form, x=X, y=y)).rss <= curve_fit_rss * (1 + 1e-5)


@pytest.mark.parametrize("name", sorted(FORMS))
def test_held_parameter_stays_and_costs(name):
    form = FORMS[name]
    y = 0.07 + 0.03 * np.exp(-X / 60) + 3e-4 * np.random.default_rng(1).standard_normal(len(X))
    free = solve(Problem(form=form, x=X, y=y))
    for index, value in enumerate(free.theta):
        held = solve(Problem(form=form, x=X, y=y, held={index: value * 1.02}))
        assert held.theta[index] == value * 1.02
        assert held.rss >= free.rss * (1 - 1e-6)


@pytest.mark.parametrize("name", ["relu", "silu", "log_line", "power", "sigmoid", "decay", "logarithm"])
@pytest.mark.parametrize("at", [10.0, 500.0])
def test_curve_through_a_point(name, at):
    form = FORMS[name]
    rising = name == "silu"
    y = 0.38 - 0.1 / X if rising else 0.07 + 0.03 * np.exp(-X / 60)
    free = solve(Problem(form=form, x=X, y=y))
    value = float(form.evaluate(np.array([at]), free.theta)[0])
    same = solve(Problem(form=form, x=X, y=y, through=(at, value)))
    assert same.rss == pytest.approx(free.rss, rel=1e-3, abs=1e-10)
    moved = solve(Problem(form=form, x=X, y=y, through=(at, value + 0.001)))
    assert form.evaluate(np.array([at]), moved.theta)[0] == pytest.approx(value + 0.001, abs=1e-9)
    assert moved.rss > free.rss
