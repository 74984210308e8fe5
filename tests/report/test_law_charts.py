"""Charts of laws: the points, the curve, its bands, the residuals and the limits are those of the fit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from sparsing.laws import compare_forms, fit
from sparsing.laws.forms import FORMS
from sparsing.laws.points import Points
from sparsing.report.charts.law_charts import law_picture, laws_charts, laws_picture
from sparsing.report.static import save_picture


@pytest.fixture(scope="module")
def law():
    """A law with a limit, two points left out."""
    form = next(name for name in sorted(FORMS) if FORMS[name].limit and FORMS[name].variable == "tokens")
    tokens = np.geomspace(1e9, 1e11, 24)
    ratio = 0.1 + 0.3 * (tokens / 1e9) ** -0.5 + np.random.default_rng(0).normal(0, 1e-3, 24)
    points = Points(name="relu", variable="tokens", x=tuple(tokens), ratio=tuple(ratio))
    return fit(points, form, drop=2, num_resamples=0)


def test_all_laws_with_their_limits(law, tmp_path):
    curves, limits = laws_charts([law])
    line, points, left_out = curves.series
    assert list(points.x) == list(law.x[2:])
    assert (left_out.mode, list(left_out.x)) == ("open", list(law.x[:2]))
    assert line.x[-1] == pytest.approx(3 * law.x[-1])
    assert np.interp(points.x, line.x, line.y) == pytest.approx(points.y, abs=0.02)
    (limit,) = limits.series
    assert (limit.x, limit.x_low, limit.x_high) == ([law.key.value], [law.key.low], [law.key.high])
    assert limits.y.names == ["relu"]
    assert len(save_picture(laws_picture([law]), tmp_path, "laws")) == 2


def test_an_open_end_reaches_the_edge_of_the_chart(law):
    key = dataclasses.replace(law.key, low=-5.0, low_closed=False)
    coefficients = tuple(key if c.name == key.name else c for c in law.coefficients)
    _, limits = laws_charts([dataclasses.replace(law, coefficients=coefficients, identified=False)])
    (limit,) = limits.series
    assert (limit.name, limit.mode) == ("not identified", "open")
    assert limit.x_low[0] < limits.x.low < key.value


def test_a_form_chosen_from_the_data_shows_intervals_over_all_forms_that_are_not_refuted(law):
    points = Points(name="auto", variable="tokens", x=law.x, ratio=law.ratio)
    best = compare_forms(points, drop=2).best
    assert len(best.forms) > 1
    _, limits = laws_charts([best])
    (limit,) = limits.series
    assert (limit.x_low, limit.x_high) == ([best.form_choice.low], [best.form_choice.high])
    curve, *_ = law_picture(best).charts
    alone, *_ = law_picture(dataclasses.replace(best, form_choice=None)).charts
    for wide, narrow in zip(curve.bands, alone.bands, strict=True):
        assert wide.name.endswith(f"over {len(best.forms)} forms")
        assert (wide.low <= narrow.low).all()
        assert (wide.high >= narrow.high).all()


def test_the_views_of_a_fit(law, tmp_path):
    picture = law_picture(law)
    curve, straight, residuals, profile = picture.charts
    new, own = curve.bands
    assert (new.low <= own.low).all()
    assert (own.high <= new.high).all()
    assert [mark.axis for mark in curve.marks] == ["x", "y"]
    assert residuals.series[0].y == pytest.approx(100 * (law.kept_ratio - law.curve(law.kept_x)))
    assert residuals.marks[0].high == pytest.approx(200 * law.noise_sd)
    assert list(profile.series[0].y) == list(law.profile_deviance)
    assert profile.marks[0].low == law.key.low
    assert len(straight.series) == 3
    assert len(save_picture(picture, tmp_path, "law")) == 2
