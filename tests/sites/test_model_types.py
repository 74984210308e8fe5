"""The properties of model types: thirty types in the default suite, all types of transformers in the slow suite."""

from __future__ import annotations

import pytest

from sparsing.models.model_types import checked_types

from ..helpers.model_properties import missing_property
from ..helpers.model_types import SAMPLE, composite_types, model_types, small_model

PASSING = [model_type.name for model_type in checked_types() if model_type.status == "passes"]


def check(name: str) -> None:
    assert missing_property(small_model(name)) is None


@pytest.mark.parametrize("name", SAMPLE)
def test_a_sample_of_types_has_all_properties(name):
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PASSING if name not in SAMPLE])
def test_every_passing_type_of_the_table_has_all_properties(name):
    check(name)


def test_the_table_has_every_type_and_the_sample_passes():
    assert {model_type.name for model_type in checked_types()} == {*model_types(), *composite_types()}
    assert len(set(SAMPLE)) == 30
    assert set(SAMPLE) <= set(PASSING)
