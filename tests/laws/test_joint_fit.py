"""The test of a shared limit: accepted where the limit is shared, rejected where it is not."""

from __future__ import annotations

import numpy as np
import pytest

from sparsing.laws import FORMS, JointFit, fit_joint, simulate


def series(limits, alphas, seed=0):
    points = []
    for i, (limit, alpha) in enumerate(zip(limits, alphas, strict=True)):
        x = np.linspace(4.0 * (i + 1), 100.0 * (i + 1), 30)
        truth = {"alpha": alpha, "c": 0.3, "A0": limit}
        points.append(simulate(FORMS["silu"], truth, x, noise_sd=8e-4, seed=seed + i, name=f"s{i}"))
    return points


def test_shared_limit_is_accepted():
    accepted = sum(
        fit_joint(series([0.385] * 3, [0.8, 0.9, 1.0], seed=10 * seed), "silu", drop=[0, 0, 0]).p_value > 0.05
        for seed in range(6)
    )
    assert accepted >= 4


def test_different_limits_are_rejected(tmp_path):
    result = fit_joint(series([0.385, 0.39, 0.395], [0.8, 0.9, 1.0]), "silu")
    assert result.p_value < 1e-4
    assert "do not share A0" in result.verdict
    assert [e.name for e in result.separate["A0"]] == ["A0"] * 3
    assert JointFit.load(result.save(tmp_path / "joint.json")) == result


def test_common_value_lies_between_the_separate_ones():
    result = fit_joint(series([0.385] * 3, [0.8, 0.9, 1.0]), "silu", drop=[0, 0, 0])
    own = [estimate.value for estimate in result.separate["A0"]]
    assert min(own) <= result.values["A0"] <= max(own)
    assert result.df[0] == 2


def test_two_shared_coefficients():
    same = fit_joint(series([0.385] * 3, [0.9] * 3), "silu", shared=("A0", "alpha"), drop=[0, 0, 0])
    other = fit_joint(series([0.385] * 3, [0.6, 0.9, 1.2]), "silu", shared=("A0", "alpha"), drop=[0, 0, 0])
    assert same.df[0] == other.df[0] == 4
    assert same.p_value > 0.01
    assert other.p_value < 1e-6


def test_refusals():
    two = series([0.385] * 2, [0.8, 0.9])
    with pytest.raises(ValueError, match="at least two series"):
        fit_joint(two[:1], "silu")
    with pytest.raises(ValueError, match="alpha, c, A0"):
        fit_joint(two, "silu", shared=("beta",))
    with pytest.raises(ValueError, match="one count for each"):
        fit_joint(two, "silu", drop=[0])
