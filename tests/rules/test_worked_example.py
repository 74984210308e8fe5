"""The rule of CONTRIBUTING.md: one file, a score of linear inputs, and measuring works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sparsing.measuring._measure import measure
from sparsing.measuring.subject import Subject
from sparsing.rules import RULES, make_rule

from ..helpers.measuring import text_corpus, tiny_loaded

PAGE = Path(__file__).resolve().parents[2] / "CONTRIBUTING.md"


@pytest.fixture
def example():
    """The code of the section on rules, run as it is on the page; the rule is removed afterwards."""
    section = PAGE.read_text(encoding="utf-8").split("## Add a rule: one file")[1].split("## ")[0]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert code is not None
    known = set(RULES)
    exec(compile(code[1], str(PAGE), "exec"), {"__name__": "example"})
    (name,) = set(RULES) - known
    yield name
    del RULES._records[name]


def test_the_worked_example_measures_every_linear_input(example):
    subject = Subject(tiny_loaded(), text_corpus(300), scores=["x", "x_norm"])
    found = measure(subject, example, level=1.0)
    assert len(found.sites) == 14  # q k v o gate up down of two layers
    # the threshold is the median of each site on the calibration text
    assert found.layer_activation_ratio[:3] == pytest.approx([0.5] * 3, abs=0.02)
    weighted = measure(subject, f"{example}:x_norm", level=1.0)
    assert weighted.layer_activation_ratio[:3] == pytest.approx([0.5] * 3, abs=0.02)
    assert make_rule(example).label == example
