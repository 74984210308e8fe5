"""Fits to the raw series behind the paper: no worse than its coefficients, and close to published refits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sparsing.laws import FORMS, fit, published_law, read_points
from sparsing.laws.published_coefficients import RELU, SILU
from sparsing.laws.solve import Problem, solve

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "sparsing_law"
pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason="needs the raw series in ../shared/data/sparsing_law"
)


def series(name):
    (points,) = read_points([DATA / f"{name}.json"])
    return points


@pytest.mark.parametrize("name", [*RELU, *SILU])
def test_rmse_is_not_above_the_papers_on_any_points(name):
    form, values = published_law(name)
    points = series(name)
    for drop in (0, 3, 6, 10):
        x, y = points.scaled[drop:], points.y[drop:]
        paper_rss = float(((y - form.curve(x, values)) ** 2).sum())
        assert solve(Problem(form=form, x=x, y=y)).rss <= paper_rss


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("0.1b_relu", 0.053, 0.067),
        ("0.2b_relu", 0.062, 0.070),
        ("0.4b_relu", 0.0005, 0.056),
        ("0.8b_relu", 0.071, 0.073),
        ("1.2b_relu", 0.080, 0.0815),
        ("2.4b_relu", 0.0, 0.073),
    ],
)
def test_range_of_limits_within_five_percent_of_the_best_rmse(name, low, high):
    points, form = series(name), FORMS["relu"]
    index = form.names.index("A0")
    limits = np.arange(0.0, 0.085, 0.001)
    rss = [solve(Problem(form=form, x=points.scaled, y=points.y, held={index: a0})).rss for a0 in limits]
    near = limits[np.array(rss) <= min(rss) * 1.05**2]
    assert near.min() == pytest.approx(low, abs=0.0011)
    assert near.max() == pytest.approx(high, abs=0.0011)


@pytest.mark.parametrize(
    ("name", "drop", "limit"),
    [
        ("0.1b_relu", 0, 0.0614),
        ("0.2b_relu", 0, 0.0674),
        ("0.8b_relu", 0, 0.0721),
        ("1.2b_relu", 6, 0.0782),
        ("1.2b_relu", 0, 0.0808),
    ],
)
def test_published_limits_come_back(name, drop, limit):
    points = series(name)
    solution = solve(Problem(form=FORMS["relu"], x=points.scaled[drop:], y=points.y[drop:]))
    assert solution.theta[-1] == pytest.approx(limit, abs=1e-4)


def test_the_six_points_that_the_authors_drop_are_found():
    result = fit(series("1.2b_relu"), "relu", num_resamples=0)
    assert result.num_dropped == 6


def test_the_limit_of_the_largest_model_is_not_identified():
    result = fit(series("2.4b_relu"), "relu", num_resamples=0)
    assert not result.identified
    assert not result.estimate("A0").low_closed
