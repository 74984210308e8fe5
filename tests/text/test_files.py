"""Opening text files: compression, encoding, and formats that a user may take for text."""

from __future__ import annotations

import bz2
import gzip
import lzma

import pyarrow
import pytest

from sparsing.errors import InputError
from sparsing.text.files import kind_of, open_text

from ..helpers.texts import DOCUMENTS, documents, write_jsonl

TEXT = "".join(DOCUMENTS)
COMPRESS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pyarrow.compress(data, codec="zstd", asbytes=True),
}


@pytest.mark.parametrize("suffix", COMPRESS)
def test_every_compression_gives_the_text_of_the_plain_file(suffix, tmp_path):
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(COMPRESS[suffix](TEXT.encode()))
    assert documents(path) == [TEXT]
    nameless = tmp_path / "data"  # the content decides, so a file that lost its suffix is read too
    nameless.write_bytes(path.read_bytes())
    assert documents(nameless) == [TEXT]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_rows_and_files_of_several_members(suffix, tmp_path):
    """Corpora such as the Pile are many compressed parts in one file; some readers stop after the first."""
    rows = write_jsonl(tmp_path / "a.jsonl", [{"text": text} for text in DOCUMENTS]).read_bytes()
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(COMPRESS[suffix](rows) + COMPRESS[suffix](rows))
    assert documents(path) == DOCUMENTS * 2


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_compressed_file_that_breaks_in_the_middle(suffix, name, tmp_path):
    content = "".join(f'{{"text": "row {i} {i**7}"}}\n' for i in range(8_000))
    path = tmp_path / f"{name}{suffix}"
    data = COMPRESS[suffix](content.encode())
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"cannot be read to its end \(.*\); give a complete"):
        documents(path)


def test_a_suffix_of_compression_on_another_file(tmp_path):
    (tmp_path / "a.txt.gz").write_text("plain text")
    with pytest.raises(InputError, match=r"a\.txt\.gz' is not gzip: it begins with b'plain '"):
        documents(tmp_path / "a.txt.gz")


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be"], ids=lambda name: name
)
@pytest.mark.parametrize("text", [TEXT, "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440\n" * 50])
def test_every_encoding_gives_the_same_text(encoding, text, tmp_path):
    """UTF-16 without a byte order mark is valid UTF-8 with NUL characters, and was measured as such."""
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode(encoding))
    assert documents(path) == [text]


def test_rows_in_utf16(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "caf\u00e9"}\n{"text": "x"}\n', encoding="utf-16")
    assert documents(path) == ["caf\u00e9", "x"]


def test_every_line_break_is_a_newline(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\rthree\n")
    with open_text(tmp_path / "a.txt") as handle:
        assert handle.read() == "one\ntwo\nthree\n"


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_file_in_another_encoding(name, tmp_path):
    (tmp_path / name).write_bytes(b'{"text": "caf\xe9"}\n')
    with pytest.raises(InputError, match=r"is not UTF-8 text: .* \(bytes e9\); convert it to UTF-8"):
        documents(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "is a Git LFS pointer"),
        (b"%PDF-1.7\n1 0 obj\n", "is a PDF document; extract its text"),
        (b"{\\rtf1\\ansi some prose}", "is an RTF document"),
        (b"PK\x03\x04\x14\x00", "is a ZIP archive"),
        (b"a.txt".ljust(257, b"\0") + b"ustar\x0000" + b"\0" * 248 + b"prose", "is a tar archive"),
        (b"\x00\x01\x02" * 100, "is binary: 100 of its first 300 bytes are NUL"),
        (b"", "is empty; give a file with text"),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a"])
def test_formats_that_are_not_text_are_named(content, message, name, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        documents(tmp_path / name)
    if content:  # also inside a compressed file
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
        with pytest.raises(InputError, match=message):
            documents(tmp_path / f"{name}.gz")


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.txt", "[1] A citation, and prose in brackets.", "text"),
        ("a.txt", "{A brace} at the beginning of prose.", "text"),
        ("a.txt", '["a", "list"] of strings begins this prose', "text"),
        ("a.txt", '{"text": "a row"}\n{"text": "a row"}\n', "json"),
        ("a.txt", '\n\n {\n "cells": [\n  1\n ]\n}\n', "json"),
        ("a.csv", '{"text": "a row"}\n{"text": "a row"}\n', "json"),
        ("a", '[{"text": "a row"}]', "json"),
        ("a.txt", '{"text": "' + "long " * 40_000 + '"}', "json"),
        ("a.py", '{"a": 1}\n', "text"),
        ("a.csv", "id,text\n", "csv"),
        ("a.TSV", "id\ttext\n", "csv"),
        ("a.JSONL", "", "json"),
    ],
)
def test_the_content_decides_what_a_file_is(name, content, kind, tmp_path):
    (tmp_path / name).write_text(content or "\n")
    assert kind_of(tmp_path / name) == kind


def test_a_folder_that_may_not_be_read_is_an_error_of_the_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("prose")

    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", refuse)
    with pytest.raises(InputError, match=r"cannot be read to its end .*Permission denied"):
        documents(path)
