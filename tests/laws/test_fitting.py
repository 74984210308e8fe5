"""`fit`, `compare` and the verdict: what is dropped, what is identified, what is refused."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from sparsing.laws import FORMS, LawFit, compare, fit, make_points, simulate
from sparsing.laws.lawfit import Estimate, Rival
from sparsing.laws.verdict import judge
from sparsing.laws.warmup import choose_drop

RELU = {"alpha": 1.0, "b": -3.5, "c": 0.02, "A0": 0.072}
X = np.linspace(6.0, 270.0, 32)


def relu_points(seed: int = 1, **changes):
    return simulate(FORMS["relu"], RELU | changes, X, noise_sd=1.5e-4, seed=seed, name="series")


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
    line = simulate(FORMS["log_line"], {"a": 0.11, "b": -0.008}, X, noise_sd=3e-4, seed=4)
    found = fit(line, "relu", num_resamples=0)
    assert not found.identified
    assert "do not fix A0" in found.verdict


def test_saved_fit_is_the_same(relu_fit, tmp_path):
    path = relu_fit.save(tmp_path / "fit.json")
    assert LawFit.load(path) == relu_fit


def test_saved_fit_without_bootstrap_keeps_nan(tmp_path):
    found = fit(relu_points(), "log_line", num_resamples=0)
    back = LawFit.load(found.save(tmp_path / "fit.json"))
    assert np.isnan(back.coefficients[0].boot_low)
    assert back.values == found.values


def test_same_seed_same_intervals(relu_fit):
    again = fit(relu_points(), "relu", num_resamples=40)
    assert again.coefficients == relu_fit.coefficients


def test_true_form_ranks_first():
    ranking = compare(relu_points())
    gaps = {found.form: found.aicc - ranking.best.aicc for found in ranking.fits}
    assert ranking.best.form == "relu"
    assert min(gap for form, gap in gaps.items() if form != "relu") > 10
    assert sum(ranking.weights) == pytest.approx(1.0)
    assert len({found.num_dropped for found in ranking.fits}) == 1


def test_spoiled_early_points_are_dropped():
    points = relu_points()
    ratio = np.array(points.ratio)
    ratio[:3] -= [0.02, 0.012, 0.006]
    found = fit(make_points(points.x, ratio), "relu", num_resamples=0)
    assert found.num_dropped == 3
    assert "without the first 3 points BIC is lower" in found.drop_reason
    assert len(found.key_by_drop) > 3


def test_clean_series_keep_their_points():
    counts = [choose_drop(FORMS["relu"], X, relu_points(seed).y).count for seed in range(6)]
    assert sum(count > 0 for count in counts) <= 1


def test_drop_can_be_forced():
    found = fit(relu_points(), "relu", drop=5, num_resamples=0)
    assert found.num_dropped == 5
    assert len(found.kept_x) == 27
    assert found.drop_reason == "5 by request"


def test_bottleneck_is_found_with_its_interval():
    shapes = np.array([14, 22, 35, 55, 86, 136, 214, 338, 597.0])
    truth = {"a": 0.055, "b": 0.0002, "r0": 114.0}
    points = simulate(FORMS["bottleneck"], truth, shapes, noise_sd=5e-4, seed=1)
    found = fit(points, "bottleneck", num_resamples=30)
    r0 = found.estimate("r0")
    assert r0.closed
    assert r0.low < 114 < r0.high
    assert found.identified
    assert found.holdout is None


def test_bottleneck_is_open_where_the_ratio_still_rises():
    shapes = np.array([14, 22, 35, 55, 86, 100, 110.0])
    points = make_points(
        shapes, 0.055 + 0.0002 * shapes + [1e-5, -1e-5, 0, 2e-5, -1e-5, 1e-5, 0], variable="width_depth"
    )
    found = fit(points, "bottleneck", num_resamples=0)
    assert not found.estimate("r0").high_closed
    assert not found.identified


def estimate(low, high, *, closed=True):
    return Estimate(
        name="A0", value=0.07, low=low, high=high, low_closed=closed, high_closed=True,
        boot_low=np.nan, boot_high=np.nan,
    )  # fmt: skip


def rival(form, delta, limit=None):
    return Rival(form=form, coefficients={}, rmse=0.0, aicc=delta, delta_aicc=delta, limit=limit)


@pytest.mark.parametrize(
    ("key", "rivals", "identified", "words"),
    [
        (estimate(0.069, 0.071), [rival("log_line", 9.0)], True, "A0 identified to 6.90-7.10%"),
        (estimate(0.0, 0.071, closed=False), [rival("log_line", 9.0)], False, "open below"),
        (estimate(0.06, 0.08), [rival("log_line", 9.0)], False, "wider than 20%"),
        (estimate(0.069, 0.071), [rival("log_line", 0.5)], False, "straight line in ln D, fits as well"),
        (estimate(0.069, 0.071), [rival("decay", 0.5, 0.05)], False, "depends on the form"),
        (estimate(0.069, 0.071), [rival("decay", 0.5, 0.07)], True, "identified"),
    ],
)
def test_verdict(key, rivals, identified, words):
    found, sentence = judge(FORMS["relu"], key, rivals, 0.9)
    assert found is identified
    assert words in sentence


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


def test_too_few_points_for_anything():
    with pytest.raises(ValueError, match="too few for every form"):
        compare(make_points([1e9, 2e9, 3e9], [0.1, 0.09, 0.085]))


def test_laws_do_not_import_torch():
    code = "import sys, sparsing.laws as l; l.fit, l.compare, l.forecast, l.fit_joint, l.read_points;"
    code += "import sparsing.report.law_figures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_few_points_are_not_ranked_by_aicc(tmp_path):
    points = make_points([1e9, 3e9, 6e9, 9e9, 12e9, 15e9], [0.1, 0.09, 0.084, 0.081, 0.0795, 0.079])
    found = fit(points, "relu", num_resamples=0)
    assert np.isnan(found.aicc)
    assert not found.identified
    assert "too few to rank" in found.verdict
    ranking = compare(points)
    assert np.isfinite(ranking.best.aicc)
    assert sum(ranking.weights) == pytest.approx(1.0)
    assert np.isnan(LawFit.load(found.save(tmp_path / "fit.json")).aicc)


def test_long_series_try_some_twenty_counts():
    x = np.linspace(1.0, 270.0, 300)
    points = simulate(FORMS["silu"], {"alpha": 0.9, "c": 0.3, "A0": 0.385}, x, noise_sd=8e-4, seed=0)
    chosen = choose_drop(FORMS["silu"], points.scaled, points.y)
    assert chosen.count == 0
    assert list(map(int, chosen.key_by_count)) == list(range(0, 101, 5))
