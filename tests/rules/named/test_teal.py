"""TEAL's greedy budget against a plain loop over steps, and what the budget must satisfy."""

from __future__ import annotations

import numpy as np
import pytest

from sparsing.measuring.calibration import calibrate
from sparsing.rules import make_rule
from sparsing.rules.named.teal import STEPS, greedy_sparsity

from ...helpers.measuring import text_corpus, tiny_loaded


@pytest.fixture(scope="module")
def curve():
    return calibrate(tiny_loaded(), text_corpus(200), scores=["x"])["x"]


def errors(curve, site, steps):
    """Squared CETT of a site at which `steps` of `STEPS` are dropped, made monotone and convex."""
    ratios = np.full(len(curve.thresholds), 1.0)
    values = []
    for step in range(STEPS + 1):
        ratios[site] = 1 - step / STEPS
        values.append(curve.cett_at(curve.threshold_at_ratio(ratios))[site] ** 2)
    costs = np.maximum.accumulate(np.diff(np.maximum.accumulate(values)))
    return costs[:steps].sum()


def test_it_equals_a_plain_loop(curve):
    weights, level = curve.weights, 0.4
    steps = np.zeros(len(weights), dtype=int)
    while (steps * weights).sum() / STEPS < level * weights.sum():
        costs = [
            (errors(curve, site, steps[site] + 1) - errors(curve, site, steps[site])) / weights[site]
            if steps[site] < STEPS
            else np.inf
            for site in range(len(weights))
        ]
        steps[int(np.argmin(costs))] += 1
    found = greedy_sparsity(curve, level)
    # the last step may be a part of a step
    assert np.abs(found - steps / STEPS).max() <= 1 / STEPS + 1e-9
    assert np.count_nonzero(~np.isclose(found, steps / STEPS)) <= 1


@pytest.mark.parametrize("level", [0.0, 0.01, 0.37, 0.9, 1.0])
def test_the_share_of_all_weights_is_the_level(level, curve):
    found = greedy_sparsity(curve, level)
    assert (found * curve.weights).sum() / curve.weights.sum() == pytest.approx(level, abs=1e-9)
    assert ((found >= 0) & (found <= 1)).all()


def test_no_site_gets_denser_as_the_level_rises_and_errors_are_below_the_uniform_budget(curve):
    found = np.stack([greedy_sparsity(curve, level) for level in np.linspace(0, 1, 21)])
    assert (np.diff(found, axis=0) >= -1e-9).all()
    uniform = np.full(len(curve.weights), 0.5)
    greedy = greedy_sparsity(curve, 0.5)
    total = [(curve.cett_at(curve.threshold_at_ratio(1 - share)) ** 2).sum() for share in (greedy, uniform)]
    assert total[0] < total[1]
    assert make_rule("teal").expected_ratio(0.5, type("C", (), {"__getitem__": lambda _, __: curve})()) == (
        pytest.approx(1 - greedy.mean(), abs=0.02)
    )
