"""Forecasts inside and beyond the data, of ratios and of tokens, and ratios that the law never reaches."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sparsing.laws import FORMS, Forecast, fit, forecast, make_points, simulate

X = np.linspace(6.0, 270.0, 32)
RELU = {"alpha": 1.0, "b": -3.5, "c": 0.02, "A0": 0.072}


@pytest.fixture(scope="module")
def law():
    return fit(simulate(FORMS["relu"], RELU, X, noise_sd=1.5e-4, seed=0), "relu", num_resamples=0)


def test_inside_the_data(law):
    answer = forecast(law, tokens=100e9)
    truth = FORMS["relu"].curve(np.array([100.0]), RELU)[0]
    assert answer.curve_low < truth < answer.curve_high
    assert answer.low < answer.curve_low
    assert answer.high > answer.curve_high
    assert answer.warning == ""
    assert answer.beyond == pytest.approx(100 / 270)


def test_warning_says_how_far_beyond_the_data(law):
    answer = forecast(law, tokens=2.7e12)
    assert answer.beyond == pytest.approx(10)
    assert "extrapolation: 10 times the last measured" in answer.warning


def test_interval_grows_with_the_distance():
    line = simulate(FORMS["log_line"], {"a": 0.11, "b": -0.008}, X, noise_sd=3e-4, seed=4)
    line_fit = fit(line, "log_line", num_resamples=0)
    widths = [
        answer.curve_high - answer.curve_low
        for answer in (forecast(line_fit, tokens=t) for t in (3e11, 3e12, 3e13))
    ]
    assert widths == sorted(widths)


def test_tokens_for_a_ratio_is_the_inverse(law):
    forward = forecast(law, tokens=80e9)
    back = forecast(law, ratio=forward.ratio)
    assert back.tokens == pytest.approx(80e9, rel=1e-6)
    assert back.low < 80e9 < back.high
    for end in (back.low, back.high):
        at = forecast(law, tokens=end)
        edge = at.curve_low if end > 80e9 else at.curve_high
        assert at.curve_low <= forward.ratio * 1.0005
        assert at.curve_high >= forward.ratio * 0.9995
        assert min(abs(at.curve_low - forward.ratio), abs(at.curve_high - forward.ratio)) < 2e-5, edge


def test_ratio_below_the_limit_is_never_met(law):
    answer = forecast(law, ratio=0.05)
    assert answer.tokens is None
    assert answer.beyond is None
    assert "does not meet this ratio" in answer.warning


def test_ratio_near_the_limit_is_not_bounded_above(law):
    limit = law.estimate("A0")
    answer = forecast(law, ratio=(limit.value + limit.high) / 2)
    assert answer.high is None
    assert answer.low is not None


def test_warning_repeats_the_doubt_about_the_limit():
    line = simulate(FORMS["log_line"], {"a": 0.11, "b": -0.008}, X, noise_sd=3e-4, seed=4)
    answer = forecast(fit(line, "relu", num_resamples=0), tokens=1e13)
    assert "A0 is not identified by these data" in answer.warning
    assert "log_line" in answer.rivals


def test_saved(law, tmp_path):
    answer = forecast(law, ratio=0.05)
    path = answer.save(tmp_path / "forecast.json")
    assert Forecast.load(path).tokens is None


def test_saved_before_forms_were_chosen(law, tmp_path):
    path = forecast(law, tokens=1e12).save(tmp_path / "forecast.json")
    document = json.loads(path.read_text()) | {"schema_version": 2}
    del document["forms"]
    path.write_text(json.dumps(document))
    assert Forecast.load(path).forms == ("relu",)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({}, "either tokens or ratio"),
        ({"tokens": 1e12, "ratio": 0.1}, "either tokens or ratio"),
        ({"tokens": -1}, "tokens must be above 0"),
        ({"ratio": 8}, "divide percentages by 100"),
    ],
)
def test_bad_questions(law, question, message):
    with pytest.raises(ValueError, match=message):
        forecast(law, **question)


def test_shapes_have_no_forecast():
    shapes = make_points(
        [14, 22, 35, 55, 86, 136, 214.0],
        [0.05, 0.052, 0.055, 0.06, 0.066, 0.07, 0.0701],
        variable="width_depth",
    )
    with pytest.raises(ValueError, match="needs a law over tokens"):
        forecast(fit(shapes, "bottleneck", num_resamples=0), tokens=1e12)
