"""Tables of docs/ about inputs: every row has a test that exists.

`tests/inputs_page.toml` has the name of the test for each row, so that the pages are free of names of tests.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGES = [TESTS.parent / "docs" / name for name in ("inputs.md", "measure.md", "laws.md")]
TEST_OF_ROW = tomllib.loads((TESTS / "inputs_page.toml").read_text(encoding="utf-8"))


def rows(page: Path) -> Iterator[str]:
    """The first cell of every row of the tables whose second column is "what happens"."""
    for table in re.findall(r"(?:^\|.*\n)+", page.read_text(encoding="utf-8"), re.MULTILINE):
        header, _, *lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines()]
        if [cell.strip() for cell in header[1:]] == ["what happens"]:
            yield from (cells[0].strip() for cells in lines)


def test_the_rows_are_those_that_have_a_test():
    found = [row for page in PAGES for row in rows(page)]
    assert sorted(found) == sorted(TEST_OF_ROW)


@pytest.mark.parametrize("row", TEST_OF_ROW)
def test_the_test_of_a_row_exists(row):
    file, _, name = TEST_OF_ROW[row].partition("::")
    source = (TESTS / file).read_text(encoding="utf-8")
    assert f"\ndef {name}(" in source or f"\n    def {name}(" in source
