"""The estimate of the passes that a measurement runs, against passes that were counted."""

from __future__ import annotations

import pytest

from sparsing.measuring.cost import usual_passes


@pytest.mark.parametrize(
    ("num_tokens", "counted"),
    [(1_843, 8.2), (3_600, 7.1), (10_800, 6.0)],
    ids=["SmolLM2, bfloat16", "ReLU demo, float16, 3,600", "ReLU demo, float16, 10,800"],
)
def test_a_search_in_half_precision(num_tokens, counted):
    estimate = usual_passes(num_tokens=num_tokens, searches=1, half_precision=True, holdout=0.1)
    assert estimate == pytest.approx(counted, rel=0.1)


def test_what_is_asked_for_is_counted_by_hand():
    # calibration; a level; realised CETT; groups and unions on 2,048 of 20,480 tokens; two held-out passes
    assert usual_passes(num_tokens=20_480, searches=0, levels=1, holdout=0.1) == pytest.approx(3.3)
    # the tries of the bracket are on an eighth, those of two searches on all
    assert usual_passes(num_tokens=10**9, searches=2) == pytest.approx(1 + 0.25 + 5 + 1, abs=1e-4)
    assert usual_passes(num_tokens=100, searches=0) == 1
