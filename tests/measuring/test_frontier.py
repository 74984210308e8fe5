"""Comparison of rules: every rule is measured at PPL-1%, with the figure of `measure`, and below it."""

from __future__ import annotations

import math

import pytest

from sparsing.measuring._measure import measure
from sparsing.measuring.frontier import compare
from sparsing.measuring.subject import Subject
from sparsing.text.corpus import load_corpus

from ..helpers.measuring import source_text, trained
from ..helpers.tiny import tiny_tokenizer

RULES = ("cett", "top_k")


@pytest.fixture(scope="module")
def subject():
    return Subject(trained(), load_corpus([source_text()[:3000]], tiny_tokenizer(), window=48))


def test_searched_levels_have_the_figures_of_measure(subject):
    comparison = compare(subject, RULES, ppl_ratio=1.1, steps=5)
    for rule in RULES:
        points = comparison.of(rule)
        assert sorted(p.target_ppl_ratio for p in points if p.target_ppl_ratio) == [1.01, 1.05, 1.1]
        assert len(points) == 5
        for ppl_ratio in (1.01, 1.05):
            measured = measure(subject, rule, ppl_ratio=ppl_ratio)
            assert comparison.ratio_at(rule, ppl_ratio) == measured.activation_ratio
            (point,) = [p for p in points if p.target_ppl_ratio == ppl_ratio]
            # a later search knows more passes, so its curve and the interval differ a little
            assert point.activation_ratio_interval == pytest.approx(
                measured.activation_ratio_interval, rel=0.1
            )
        assert min(p.ppl_ratio for p in points) < 1.005, "no level below PPL-1%"
        assert [p.activation_ratio for p in points] == sorted(
            (p.activation_ratio for p in points), reverse=True
        )
        assert math.isnan(comparison.ratio_at(rule, 1.5))
