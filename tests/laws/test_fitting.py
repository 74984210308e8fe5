"""`fit`: which points are dropped, which limits are identified, and which input is refused."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from sparsing.laws import FORMS, LawFit, fit, make_points, simulate

from .series import LINE, RELU_X, relu_points


@pytest.fixture(scope="module")
def relu_fit() -> LawFit:
    return fit(relu_points(), "relu", num_resamples=40)


def test_limit_is_identified_where_the_curve_has_flattened(relu_fit):
    assert relu_fit.identified
    assert relu_fit.verdict.startswith("A0 identified to 7.")
    limit = relu_fit.estimate("A0")
    assert limit.closed
    assert limit.low < limit.value < limit.high
    assert limit.boot_low < limit.boot_high
    assert relu_fit.r2 > 0.999
    assert relu_fit.num_dropped == 0
    assert relu_fit.holdout is not None
    assert relu_fit.holdout.num_fitted == 16


def test_limit_is_not_identified_in_a_straight_line():
    line = simulate(FORMS["log_line"], LINE, RELU_X, noise_sd=3e-4, seed=4)
    result = fit(line, "relu", num_resamples=0)
    assert not result.identified
    assert "A0 is not identified by these data" in result.verdict


def test_saved_fit_is_the_same(relu_fit, tmp_path):
    path = relu_fit.save(tmp_path / "fit.json")
    assert LawFit.load(path) == relu_fit


def test_saved_fit_without_bootstrap_keeps_nan(tmp_path):
    result = fit(relu_points(), "log_line", num_resamples=0)
    back = LawFit.load(result.save(tmp_path / "fit.json"))
    assert np.isnan(back.coefficients[0].boot_low)
    assert back.values == result.values


def test_same_seed_same_intervals(relu_fit):
    again = fit(relu_points(), "relu", num_resamples=40)
    assert again.coefficients == relu_fit.coefficients


def test_spoiled_early_points_are_dropped():
    points = relu_points()
    ratio = np.array(points.ratio)
    ratio[:3] -= [0.02, 0.012, 0.006]
    result = fit(make_points(points.x, ratio), "relu", num_resamples=0)
    assert result.num_dropped == 3
    assert "this improves BIC by" in result.drop_reason
    assert len(result.key_by_drop) > 3


def test_drop_can_be_forced():
    result = fit(relu_points(), "relu", drop=5, num_resamples=0)
    assert result.num_dropped == 5
    assert len(result.kept_x) == 27
    assert result.drop_reason == "5 by request"


def test_bottleneck_is_found_with_its_interval():
    shapes = np.array([14, 22, 35, 55, 86, 136, 214, 338, 597.0])
    truth = {"a": 0.055, "b": 0.0002, "r0": 114.0}
    points = simulate(FORMS["bottleneck"], truth, shapes, noise_sd=5e-4, seed=1)
    result = fit(points, "bottleneck", num_resamples=30)
    r0 = result.estimate("r0")
    assert r0.closed
    assert r0.low < 114 < r0.high
    assert result.identified
    assert result.holdout is None


def test_bottleneck_is_open_where_the_ratio_still_rises():
    shapes = np.array([14, 22, 35, 55, 86, 100, 110.0])
    points = make_points(
        shapes, 0.055 + 0.0002 * shapes + [1e-5, -1e-5, 0, 2e-5, -1e-5, 1e-5, 0], variable="width_depth"
    )
    result = fit(points, "bottleneck", num_resamples=0)
    assert not result.estimate("r0").high_closed
    assert not result.identified


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "relu", "drop": 28}, "4 points after leaving out 28.*4 coefficients.*at least 6"),
        ({"form": "bottleneck"}, "forms for these points: decay, log_line"),
        ({"form": "relu", "level": 1.5}, "level must be in"),
        ({"form": "relu", "drop": -1}, "drop must be 0 or more"),
        ({"form": "relu", "num_resamples": -1}, "num_resamples must be 0 or more"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        fit(relu_points(), **options)


def test_laws_do_not_import_torch():
    code = "import sys, sparsing.laws as l; l.fit, l.compare_forms, l.forecast, l.fit_joint, l.read_points;"
    code += "import sparsing.report.charts.law_charts; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
