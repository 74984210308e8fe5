"""Damaged and hostile files end in an error of this package, whatever is wrong with them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .helpers.fuzz import damaged, problem, readers

NAMES = sorted(readers())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize("name", NAMES)
def test_the_valid_file_is_read(name, tmp_path):
    file, content, read = readers()[name]
    if name in ("index", "report"):  # an index without its weights, and a law without its fields
        pytest.skip("the valid content is not a whole result")
    (tmp_path / file).write_bytes(content)
    read(tmp_path / file)


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files(name, folder):
    file, content, read = readers()[name]
    generator = random.Random(name)
    for _ in range(150):
        case = damaged(content, generator)
        assert problem(name, file, case, read, folder) == "", case


@pytest.mark.parametrize("name", [name for name in NAMES if readers()[name][0].endswith((".json", ".jsonl"))])
def test_any_json(name, folder):
    import json

    file, _, read = readers()[name]

    @settings(max_examples=40, deadline=None, database=None, derandomize=True)
    @given(JSON)
    def check(value):
        assert problem(name, file, json.dumps(value).encode(), read, folder) == ""

    check()
