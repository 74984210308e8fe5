"""The laws over model types: a sample of thirty in the default suite, all types of transformers in the slow suite."""

from __future__ import annotations

import pytest

from sparsing.models.model_types import checked_types

from ..helpers.laws import broken_law
from ..helpers.model_types import SAMPLE, composite_types, model_types, small_model

PASSING = [model_type.name for model_type in checked_types() if model_type.status == "passes"]


def check(name: str) -> None:
    assert broken_law(small_model(name)) is None


@pytest.mark.parametrize("name", SAMPLE)
def test_the_laws_hold_for_a_sample_of_types(name):
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PASSING if name not in SAMPLE])
def test_the_laws_hold_for_every_type_of_the_table(name):
    check(name)


def test_the_table_has_every_type_and_the_sample_passes():
    assert {model_type.name for model_type in checked_types()} == {*model_types(), *composite_types()}
    assert len(set(SAMPLE)) == 30
    assert set(SAMPLE) <= set(PASSING)
