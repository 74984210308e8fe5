"""The verdict: each condition of "identified", and the sentence that names the one that fails."""

from __future__ import annotations

import numpy as np
import pytest

from sparsing.laws import FORMS
from sparsing.laws.lawfit import Estimate, FormChoice, Rival
from sparsing.laws.verdict import judge, judge_choice


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


def choice(*forms, low=0.069, high=0.071, low_closed=True):
    return FormChoice(
        forms=forms, max_shortfall=10.0, low=low, high=high, low_closed=low_closed, high_closed=True
    )


@pytest.mark.parametrize(
    ("chosen", "rivals", "identified", "words"),
    [
        (choice("relu"), [rival("log_line", 19.0)], True, "A0 identified to 6.90-7.10% (90% interval); the best form"),
        (
            choice("relu", "sigmoid"),
            [rival("sigmoid", 3.0, 0.07), rival("log_line", 19.0)],
            True,
            "(90% interval over the 2 forms that the data do not refute (ReLU law, sigmoid in ln D))",
        ),
        (choice("relu", low=0.0, low_closed=False), [rival("log_line", 19.0)], False, "open below"),
        (
            choice("relu", "sigmoid", low=0.06, high=0.08),
            [rival("sigmoid", 3.0, 0.07)],
            False,
            "the interval 6.00-8.00% over the 2 forms that the data do not refute (ReLU law, sigmoid in ln D) is wider",
        ),
        (
            choice("relu", "log_line"),
            [rival("log_line", 7.5)],
            False,
            "a form without a limit, straight line in ln D, is not refuted (AICc +7.5)",
        ),
        (choice("relu", "sigmoid"), [rival("sigmoid", np.nan, 0.07)], False, "too few to rank"),
    ],
)  # fmt: skip
def test_verdict_over_forms(chosen, rivals, identified, words):
    answer, sentence = judge_choice(FORMS["relu"], {"A0": 0.07}, chosen, rivals, 0.9)
    assert answer is identified
    assert words in sentence


def test_a_best_form_without_a_limit_names_the_forms_that_have_one():
    answer, sentence = judge_choice(
        FORMS["log_line"], {"a": 0.1, "b": -0.01}, choice("log_line", "relu", "power"), [rival("relu", 5.0, 0.05)], 0.9
    )  # fmt: skip
    assert not answer
    assert sentence.endswith(
        "has no limit to identify; forms with a limit that the data do not refute either: ReLU law"
    )
