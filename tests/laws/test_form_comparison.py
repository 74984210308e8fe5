"""The ranking of all forms: the true form wins, few points are ranked by BIC, too few are refused."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from sparsing.laws import FormComparison, LawFit, compare_forms, fit, make_points

from .series import relu_points


def test_true_form_ranks_first():
    ranking = compare_forms(relu_points())
    gaps = {fit.form: fit.aicc - ranking.best.aicc for fit in ranking.fits}
    assert ranking.best.form == "relu"
    assert min(gap for form, gap in gaps.items() if form != "relu") > 10
    assert sum(ranking.weights) == pytest.approx(1.0)
    assert len({fit.num_dropped for fit in ranking.fits}) == 1


def test_few_points_are_not_ranked_by_aicc(tmp_path):
    points = make_points([1e9, 3e9, 6e9, 9e9, 12e9, 15e9], [0.1, 0.09, 0.084, 0.081, 0.0795, 0.079])
    result = fit(points, "relu", num_resamples=0)
    assert np.isnan(result.aicc)
    assert not result.identified
    assert "too few to rank" in result.verdict
    ranking = compare_forms(points)
    assert np.isfinite(ranking.best.aicc)
    assert sum(ranking.weights) == pytest.approx(1.0)
    assert np.isnan(LawFit.load(result.save(tmp_path / "fit.json")).aicc)


def test_a_comparison_saved_before_forms_were_chosen_loads(tmp_path):
    ranking = compare_forms(relu_points(), drop=0)
    path = ranking.save(tmp_path / "forms.json")
    document = json.loads(path.read_text()) | {"schema_version": 2}
    for law in document["fits"]:
        del law["form_choice"]
    path.write_text(json.dumps(document))
    best = FormComparison.load(path).best
    assert best == dataclasses.replace(ranking.best, form_choice=None)
    assert best.forms == ("relu",)
    assert best.key_over_forms == best.key


def test_too_few_points_for_anything():
    with pytest.raises(ValueError, match="too few for every form"):
        compare_forms(make_points([1e9, 2e9, 3e9], [0.1, 0.09, 0.085]))


def test_a_comparison_saved_under_its_former_kind_loads(tmp_path):
    ranking = compare_forms(make_points([1e9, 2e9, 4e9, 8e9, 16e9], [0.1, 0.09, 0.082, 0.078, 0.077]))
    path = ranking.save(tmp_path / "forms.json")
    document = json.loads(path.read_text())
    assert document["kind"] == "form_comparison"
    path.write_text(json.dumps(document | {"kind": "Comparison", "schema_version": 1}))
    assert FormComparison.load(path).to_dict() == ranking.to_dict()
