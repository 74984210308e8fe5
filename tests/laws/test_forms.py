"""Every law: its equation by hand, the round trip of its coefficients, and an exact fit to points without noise."""

from __future__ import annotations

import numpy as np
import pytest

from sparsing.laws import FORMS
from sparsing.laws.solve import Problem, solve

X = np.linspace(2.0, 200.0, 30)

TRUTHS = {
    "bottleneck": {"a": 0.05, "b": 0.0002, "r0": 114.0},
    "decay": {"alpha": 0.4, "c": 0.05, "A0": 0.06},
    "log_line": {"a": 0.11, "b": -0.008},
    "logarithm": {"b": 0.09, "r": 5e-4},
    "power": {"alpha": 0.1, "c": 0.11},
    "relu": {"alpha": 0.8, "b": -3.4, "c": 0.02, "A0": 0.07},
    "sigmoid": {"k": 2.0, "m": 40.0, "c": 0.03, "A0": 0.07},
    "silu": {"alpha": 0.9, "c": 0.3, "A0": 0.385},
}

BY_HAND = {
    "bottleneck": ({"a": 0.1, "b": 0.01, "r0": 3.0}, 4.0, 0.13),
    "decay": ({"alpha": 0.5, "c": 0.4, "A0": 0.1}, 4.0, 0.3),
    "log_line": ({"a": 0.1, "b": 0.2}, 1.0, 0.1),
    "logarithm": ({"b": 0.1, "r": (np.e - 1) / 4}, 4.0, 1.1),
    "power": ({"alpha": 2.0, "c": 0.32}, 4.0, 0.02),
    "relu": ({"alpha": 0.5, "b": -1.0, "c": 0.5, "A0": 0.1}, 4.0, np.exp(-2.0) + 0.1),
    "sigmoid": ({"k": 3.0, "m": 4.0, "c": 0.2, "A0": 0.1}, 4.0, 0.2),
    "silu": ({"alpha": 0.5, "c": 0.4, "A0": 0.5}, 4.0, 0.3),
}


def test_every_law_has_a_case():
    assert set(TRUTHS) == set(BY_HAND) == set(FORMS)


@pytest.mark.parametrize("name", sorted(FORMS))
def test_curve_by_hand(name):
    values, x, wanted = BY_HAND[name]
    assert FORMS[name].curve(np.array([x]), values)[0] == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("name", sorted(FORMS))
def test_coefficients_survive_the_round_trip(name):
    form = FORMS[name]
    back = form.to_coefficients(form.to_theta(TRUTHS[name]))
    assert back == pytest.approx(TRUTHS[name], rel=1e-12)
    assert list(back) == list(form.order or form.names)


@pytest.mark.parametrize("name", sorted(FORMS))
def test_coefficients_are_recovered_without_starting_values(name):
    form = FORMS[name]
    solution = solve(Problem(form=form, x=X, y=form.curve(X, TRUTHS[name])))
    assert form.to_coefficients(solution.theta) == pytest.approx(TRUTHS[name], rel=2e-3)
    assert solution.rss < 1e-12


@pytest.mark.parametrize("name", sorted(FORMS))
def test_linearise_gives_a_straight_line(name):
    form, values = FORMS[name], TRUTHS[name]
    line = form.linearise(X, form.curve(X, values), values)
    assert abs(np.corrcoef(line.u, line.v)[0, 1]) == pytest.approx(1.0, abs=1e-9)
    assert line.u_label != line.v_label


def test_basis_of_many_nodes_at_once():
    for name in FORMS:
        form = FORMS[name]
        nodes = form.grid(X)
        many = form.basis(X, nodes)
        assert many.shape == (len(nodes), len(X), len(form.linear))
        np.testing.assert_array_equal(many[-1], form.basis(X, nodes[-1]))
        assert np.isfinite(many).all()


def test_unknown_law_suggests():
    with pytest.raises(ValueError, match="Did you mean: sigmoid"):
        FORMS["sigmoyd"]
