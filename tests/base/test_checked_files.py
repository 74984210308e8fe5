"""Small files are read with a size limit and a checked type; every damage is an InputError that names the file."""

from __future__ import annotations

import dataclasses

import pytest

from sparsing.base import checked_files
from sparsing.errors import InputError


@dataclasses.dataclass(frozen=True)
class Record:
    name: str
    numbers: tuple[float, ...] = ()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe{\x00}\x00",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 5000,
        b'{"name": "\\ud800"}',
        b"\x00",
    ],
)
def test_what_is_no_json(content, tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.json.*; do this"):
        checked_files.read_json(path, hint="do this")


def test_a_file_above_the_limit_is_not_parsed(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("[1, 2, 3]")
    assert checked_files.read_json(path, hint="h", limit=9) == [1, 2, 3]
    with pytest.raises(InputError, match="more than 8 bytes"):
        checked_files.read_json(path, hint="h", limit=8)


@pytest.mark.parametrize("name", ["none", "folder", "a\0b"])
def test_what_is_no_file(name, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="; do this"):
        checked_files.read_utf8(tmp_path / name, hint="do this")


@pytest.mark.parametrize("content", ["a = ", "a = " + "[" * 5000, "a = " + "9" * 5000, "[a]\n[a]"])
def test_what_is_no_toml(content, tmp_path):
    path = tmp_path / "x.toml"
    path.write_text(content)
    with pytest.raises(InputError, match=r"x\.toml.*; do this"):
        checked_files.read_toml(path, hint="do this")


def test_a_checked_record_and_unknown_keys():
    value = {"name": "a", "numbers": [1, 2.5], "later": None}
    assert checked_files.check(value, Record, name="f", hint="h") == Record("a", (1.0, 2.5))


@pytest.mark.parametrize("value", [None, [], {}, {"name": 1}, {"name": "a", "numbers": ["1"]}])
def test_a_value_of_another_type(value):
    with pytest.raises(InputError, match=r"^f: .*; h$"):
        checked_files.check(value, Record, name="f", hint="h")
