"""The test of a shared limit: kept where it is shared, refused where it is not."""

from __future__ import annotations

import numpy as np
import pytest

from sparsing.laws import FORMS, JointFit, fit_joint, simulate


def series(limits, alphas, seed=0):
    made = []
    for i, (limit, alpha) in enumerate(zip(limits, alphas, strict=True)):
        x = np.linspace(4.0 * (i + 1), 100.0 * (i + 1), 30)
        truth = {"alpha": alpha, "c": 0.3, "A0": limit}
        made.append(simulate(FORMS["silu"], truth, x, noise_sd=8e-4, seed=seed + i, name=f"s{i}"))
    return made


def test_shared_limit_is_kept():
    kept = sum(
        fit_joint(series([0.385] * 3, [0.8, 0.9, 1.0], seed=10 * seed), "silu", drop=[0, 0, 0]).p_value > 0.05
        for seed in range(6)
    )
    assert kept >= 4


def test_other_limits_are_refused(tmp_path):
    found = fit_joint(series([0.385, 0.39, 0.395], [0.8, 0.9, 1.0]), "silu")
    assert found.p_value < 1e-4
    assert "do not share A0" in found.verdict
    assert [e.name for e in found.separate["A0"]] == ["A0"] * 3
    assert JointFit.load(found.save(tmp_path / "joint.json")) == found


def test_common_value_lies_between_the_separate_ones():
    found = fit_joint(series([0.385] * 3, [0.8, 0.9, 1.0]), "silu", drop=[0, 0, 0])
    own = [estimate.value for estimate in found.separate["A0"]]
    assert min(own) <= found.values["A0"] <= max(own)
    assert found.df[0] == 2


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
