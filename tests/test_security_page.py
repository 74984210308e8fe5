"""Every test that docs/security.md names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NAMED = re.findall(
    r"`(tests/(?:\w+/)*test_\w+\.py)(?:::(\w+))?`",
    (ROOT / "docs" / "security.md").read_text(encoding="utf-8"),
)


@pytest.mark.parametrize(("file", "name"), sorted(set(NAMED)))
def test_it_exists(file, name):
    text = (ROOT / file).read_text(encoding="utf-8")
    assert f"def {name}(" in text if name else "def test_" in text


def test_every_row_of_the_tables_names_a_test():
    lines = (ROOT / "docs" / "security.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("| ") and not line.endswith("| test |")]
    assert len(rows) > 25
    assert not [row for row in rows if "`tests/" not in row.rsplit("|", 2)[1]]
