"""The tables of decoding in the repository are those of the results in `benchmarks/results`."""

from __future__ import annotations

from types import ModuleType

import pytest

from ..helpers.scripts import load_script


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("benchmarks/decode.py")


def test_the_file_of_all_tables_is_that_of_the_newest_results(script):
    assert script.TABLES.read_text("utf-8") == script.all_tables()


def test_the_table_of_conclusions_is_that_of_the_newest_results(script):
    page = script.PAGE.read_text("utf-8")
    assert page.count(script.BEGIN) == page.count(script.END) == 1
    assert script.with_conclusions(page) == page


def test_a_conclusion_is_the_range_over_shapes_and_dtypes(script):
    """Batch 8 at 40%: the exact kernels are slower than dense everywhere, as the page says."""
    (row,) = (row for row in script.block_conclusions() if row[:2] == ["one block, batch 8", "40.0%"])
    low, high = (float(end) for end in row[2].split(" to "))
    assert 0 < low < high < 1
