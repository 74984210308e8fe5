"""docs/inputs.md: every row of its tables names a test that exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "inputs.md"


def table_rows() -> list[list[str]]:
    """The cells of every row, without headers and rulers."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [row for row in rows if row[-1] != "test" and set(row[-1]) != {"-"}]


@pytest.mark.parametrize("row", table_rows(), ids=lambda row: row[0])
def test_each_row_names_a_test_that_exists(row):
    assert len(row) == 3, "a row has an input, what happens, and a test"
    file, _, name = row[-1].strip("`").partition("::")
    source = (TESTS / file).read_text(encoding="utf-8")
    assert f"\ndef {name}(" in source or f"\n    def {name}(" in source
