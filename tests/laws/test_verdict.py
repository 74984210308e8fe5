"""The verdict: each condition of "identified", and the sentence that names the one that fails."""

from __future__ import annotations

import numpy as np
import pytest

from sparsing.laws import FORMS
from sparsing.laws.lawfit import Estimate, Rival
from sparsing.laws.verdict import judge


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
    answer, sentence = judge(FORMS["relu"], key, rivals, 0.9)
    assert answer is identified
    assert words in sentence
