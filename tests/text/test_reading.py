"""Reading text: every kind of source gives the same documents, in pieces, and every refusal says why."""

from __future__ import annotations

import pytest

import sparsing.text.reading
from sparsing.errors import InputError
from sparsing.text.reading import check_options, read_pieces

from ..helpers.texts import DOCUMENTS, documents, write_jsonl, write_parquet


@pytest.fixture
def short_pieces(monkeypatch) -> int:
    monkeypatch.setattr(sparsing.text.reading, "PIECE", 7)
    return 7


@pytest.mark.parametrize("text", [*DOCUMENTS, "x" * 50, "\n" * 30, "a\n" * 20, "no newline " * 9 + "\n"])
def test_pieces_of_a_file_and_of_a_string_join_to_the_text(text, tmp_path, short_pieces):
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8")
    assert documents(path) == documents(str(path)) == documents([text]) == [text]
    for source in (path, [text]):
        assert all(len(piece) <= 2 * short_pieces for piece, _ in read_pieces(source))


def test_a_piece_ends_after_a_line_where_it_can(short_pieces):
    assert [text for text, _ in read_pieces(["abc\ndefg\nhi"])] == ["abc\n", "defg\nhi"]


def test_jsonl_parquet_and_a_list_give_the_same_documents(tmp_path, short_pieces):
    jsonl = write_jsonl(tmp_path / "a.jsonl", [{"text": text, "id": 1} for text in DOCUMENTS])
    parquet = write_parquet(tmp_path / "a.parquet", DOCUMENTS)
    assert documents(jsonl) == documents(parquet) == documents(DOCUMENTS) == DOCUMENTS


def test_a_name_that_is_no_file_and_no_dataset(tmp_path):
    with pytest.raises(InputError, match=r"is no file or folder here.* Check the path"):
        documents(str(tmp_path / "missing.txt"))


def test_the_text_itself_in_place_of_a_file_name():
    with pytest.raises(InputError, match="is no file or folder here"):
        documents("Once upon a time, " * 500)


def test_options_without_an_effect_on_the_source_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("prose")
    rows = write_jsonl(tmp_path / "a.jsonl", [{"body": "x"}])
    check_options(tmp_path / "a.txt")
    check_options(rows, column="body")
    for path, options, message in (
        (tmp_path / "a.txt", {"column": "body"}, "is plain text; leave out --column"),
        (tmp_path / "a.txt", {"split": "test"}, "is a single file; leave out --split"),
        (rows, {"split": "test"}, "is a single file; leave out --split"),
        (tmp_path, {"split": "test"}, "holds a single part; leave out --split"),
    ):
        with pytest.raises(InputError, match=message):
            check_options(path, **options)


def test_joined_documents_keep_the_empty_ones(tmp_path, short_pieces):
    rows = ["", " = Title = \n", "", "A long sentence of prose.\n", ""]
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": row} for row in rows])
    assert documents(path, join="\n\n") == documents(rows, join="\n\n") == ["\n\n".join(rows)]
    assert documents(path) == [row for row in rows if row]
    assert documents(rows) == rows
    (tmp_path / "b.txt").write_text("last")
    assert documents(tmp_path, join="") == ["".join(rows) + "last"]


def test_lone_surrogates_are_replaced_and_counted(tmp_path, caplog):
    """Scraped JSON has halves of surrogate pairs, at which a tokenizer raises a TypeError."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "good \\ud83d\\ude00"}\n{"text": "cut \\ud83d"}\n{"text": "\\ude00"}\n')
    assert documents(path) == ["good \U0001f600", "cut \ufffd", "\ufffd"]
    assert "2 documents have lone surrogates; each becomes U+FFFD, the first is in document 2" in caplog.text
    assert documents(["in memory \udcff"]) == ["in memory \ufffd"]


def test_texts_in_memory_that_are_not_strings():
    with pytest.raises(InputError, match="document 2 of the texts in memory is a dict; give strings"):
        documents(["x", {"text": "y"}])
    with pytest.raises(InputError, match="document 1 of the texts in memory is a bytes; give strings"):
        documents([b"x"])


def test_nul_characters_in_the_middle_of_a_text(tmp_path):
    """A file system that was full leaves such holes."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"prose\n" * 30_000 + b"\0" * 512 + b"prose\n")
    with pytest.raises(InputError, match=r"a\.txt' has 512 NUL characters in the middle"):
        documents(path)
