"""`scripts/model_table.py`: docs/models.md shows the stored list of model types, with reasons in plain words."""

from __future__ import annotations

import re
from types import ModuleType

import pytest

from sparsing.models.model_types import checked_types

from ..helpers.scripts import load_script


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("scripts/model_table.py")


def test_the_page_is_that_of_the_stored_list(script):
    page = script.PAGE.read_text("utf-8")
    (version,) = re.findall(r"model types of transformers (\S+) that", page)
    assert script.page(checked_types(), version) == page


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (
            "blip cannot run on 12 ids (ValueError: not (4, 2)); give another model",
            "blip cannot run on 12 ids (ValueError)",
        ),
        ("layer 0 runs 6 times per token; figures would be wrong", "layer 0 runs 6 times per token"),
        ("No feed-forward block was found in 'mamba': no act(a). Its modules: A, B", "no act(a)"),
    ],
)
def test_a_reason_is_the_first_clause_of_the_message(script, message, reason):
    assert script.why_refused(message) == reason


def test_no_reason_has_values_of_python(script):
    assert not [
        row.name for row in checked_types() if re.search(r"object has no|\[\[|\.\.\.$|\(\w+: ", row.reason)
    ]
