"""Reading text: every kind of source gives the same documents, in pieces, and every refusal says why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import sparsing.text.reading
from sparsing.errors import InputError
from sparsing.text.reading import read_pieces

DOCUMENTS = ["first line\nsecond line\n", "another\n\n\n  document", "\u00fcber \u6c34 \U0001f600"]


def documents(source, **options) -> list[str]:
    """The documents put together from their pieces."""
    found, held = [], ""
    for text, ends in read_pieces(source, **options):
        held += text
        if ends:
            found.append(held)
            held = ""
    assert held == "", "the last piece must end its document"
    return found


@pytest.fixture
def short_pieces(monkeypatch) -> int:
    monkeypatch.setattr(sparsing.text.reading, "PIECE", 7)
    return 7


def write_jsonl(path: Path, rows: list) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    return path


def write_parquet(path: Path, column: list, name: str = "text") -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({name: column, "id": list(range(len(column)))}), path)
    return path


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


def test_another_column(tmp_path):
    jsonl = write_jsonl(tmp_path / "a.jsonl", [{"body": "x"}, {"body": "y"}])
    parquet = write_parquet(tmp_path / "a.parquet", ["x", "y"], name="body")
    assert documents(jsonl, column="body") == documents(parquet, column="body") == ["x", "y"]


def test_a_folder_gives_its_files_in_order_of_name_one_document_each(tmp_path):
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a.md").write_text("first")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff")
    (tmp_path / "c").mkdir()
    write_jsonl(tmp_path / "c" / "d.jsonl", [{"text": "third"}, {"text": ""}, {"text": "fourth"}])
    assert documents(tmp_path) == ["first", "second", "third", "fourth"]


def test_an_empty_file_and_a_folder_without_text(tmp_path):
    (tmp_path / "a.txt").touch()
    with pytest.raises(InputError, match=r"a\.txt' is empty; give a file with text"):
        documents(tmp_path / "a.txt")
    (tmp_path / "sub").mkdir()
    with pytest.raises(InputError, match="has no text file"):
        documents(tmp_path / "sub")


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_file_that_is_not_utf8(name, tmp_path):
    (tmp_path / name).write_bytes(b'{"text": "caf\xe9"}\n')
    with pytest.raises(InputError, match=r"is not UTF-8 text .*; convert it"):
        documents(tmp_path / name)


def test_a_missing_column_names_those_that_are_there(tmp_path):
    jsonl = write_jsonl(tmp_path / "a.jsonl", [{"body": "x", "id": 1}])
    with pytest.raises(
        InputError, match=r"no text in column 'text', it has \['body', 'id'\]; name the column with --column"
    ):
        documents(jsonl)
    parquet = write_parquet(tmp_path / "a.parquet", ["x"], name="body")
    with pytest.raises(InputError, match=r"no column 'text'; give one of \['body', 'id'\] with --column"):
        documents(parquet)
    with pytest.raises(InputError, match="no text in column 'id'"):
        documents(parquet, column="id")


def test_lines_that_are_not_json_or_not_objects(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x"}\nplain\n')
    with pytest.raises(InputError, match="line 2 is not JSON"):
        documents(path)
    path.write_text('"only a string"\n')
    with pytest.raises(InputError, match="it has str"):
        documents(path)


def test_a_parquet_file_that_is_none(tmp_path):
    (tmp_path / "a.parquet").write_text("not parquet")
    with pytest.raises(InputError, match=r"a\.parquet' is not a parquet file"):
        documents(tmp_path / "a.parquet")


def test_a_name_that_is_no_file_and_no_dataset(tmp_path):
    with pytest.raises(InputError, match=r"is no file or folder here.*; check the path"):
        documents(str(tmp_path / "missing.txt"))


def test_the_text_itself_in_place_of_a_file_name():
    with pytest.raises(InputError, match="is no file or folder here"):
        documents("Once upon a time, " * 500)
