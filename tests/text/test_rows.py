"""Rows of structured files: every format gives the same texts, and a row without text is named."""

from __future__ import annotations

import json

import pytest

from sparsing.errors import InputError
from sparsing.text.rows import texts_of

from ..helpers.texts import DOCUMENTS, documents, write_arrow, write_csv, write_jsonl, write_parquet


def write(path, kind: str):
    """The documents in a file of this kind."""
    rows = [{"text": text, "id": 1} for text in DOCUMENTS]
    if kind in ("json list", "json list over several lines"):
        path = path / "a.json"
        path.write_text(json.dumps(rows, indent=1 if "several" in kind else None))
        return path
    writers = {
        "json lines": lambda: write_jsonl(path / "a.jsonl", rows),
        "json lines in .json": lambda: write_jsonl(path / "a.json", rows),
        "json lines in .ndjson": lambda: write_jsonl(path / "a.ndjson", rows),
        "json lines in .txt": lambda: write_jsonl(path / "a.txt", rows),
        "json lines in .csv": lambda: write_jsonl(path / "a.csv", rows),
        "csv": lambda: write_csv(path / "a.csv", DOCUMENTS),
        "csv with semicolons": lambda: write_csv(path / "a.csv", DOCUMENTS, delimiter=";"),
        "tsv": lambda: write_csv(path / "a.tsv", DOCUMENTS, delimiter="\t"),
        "parquet": lambda: write_parquet(path / "a.parquet", DOCUMENTS),
        "parquet without suffix": lambda: write_parquet(path / "a", DOCUMENTS),
        "arrow stream": lambda: write_arrow(path / "a.arrow", DOCUMENTS, stream=True),
        "arrow file": lambda: write_arrow(path / "a.arrow", DOCUMENTS, stream=False),
    }
    return writers[kind]()


KINDS = [
    *(
        "json lines",
        "json lines in .json",
        "json lines in .ndjson",
        "json lines in .txt",
        "json lines in .csv",
    ),
    *("json list", "json list over several lines", "csv", "csv with semicolons", "tsv"),
    *("parquet", "parquet without suffix", "arrow stream", "arrow file"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_documents(kind, tmp_path):
    """A list of rows in a file called .json was measured as prose: brackets, keys and escapes included."""
    assert documents(write(tmp_path, kind)) == DOCUMENTS


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_column_names_the_columns(kind, tmp_path):
    with pytest.raises(InputError, match=r"no column 'body'.*(id.*text|text.*id).*with --column"):
        documents(write(tmp_path, kind), column="body")


def test_another_column(tmp_path):
    jsonl = write_jsonl(tmp_path / "a.jsonl", [{"body": "x"}, {"body": "y"}])
    parquet = write_parquet(tmp_path / "a.parquet", ["x", "y"], name="body")
    assert documents(jsonl, column="body") == documents(parquet, column="body") == ["x", "y"]


def test_a_single_object_is_a_single_row(tmp_path):
    (tmp_path / "a.json").write_text('{\n "version": "1.1",\n "data": [\n  {"text": "x"}\n ]\n}\n')
    with pytest.raises(
        InputError, match=r"row 1 has no column 'text'; it has data \(a list\), version \(text\)"
    ):
        documents(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"text": 3}, r"row 3 has a number in column 'text', not text \(2 of 3 rows from there on"),
        ({"text": ["a"]}, r"row 3 has a list in column 'text', not text"),
        ({"text": {"role": "user"}}, r"row 3 has an object in column 'text'"),
        ({"body": "x"}, r"row 3 has no column 'text'; it has body \(text\)"),
        ("plain", r"row 3 is text, not an object with columns"),
    ],
)
def test_a_row_without_text_is_named_by_number_type_and_count(bad, message, tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "x"}, {"text": "y"}, bad, {"text": "z"}, bad])
    with pytest.raises(InputError, match=message):
        documents(path)


@pytest.mark.parametrize("write_file", [write_jsonl, write_parquet], ids=["jsonl", "parquet"])
def test_null_is_left_out_and_counted(write_file, tmp_path, caplog):
    texts = ["x", None, "y", None]
    path = tmp_path / f"a.{'jsonl' if write_file is write_jsonl else 'parquet'}"
    write_file(path, [{"text": text} for text in texts] if write_file is write_jsonl else texts)
    assert documents(path) == ["x", "y"]
    assert "2 rows have no text (null) and are left out, the first: row 2" in caplog.text


def test_empty_texts_are_no_documents(tmp_path):
    assert documents(write_jsonl(tmp_path / "a.jsonl", [{"text": ""}, {"text": "x"}])) == ["x"]


def test_lines_that_are_not_json(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x"}\n\nplain\n')
    with pytest.raises(InputError, match=r"a\.jsonl' line 3 is not JSON: .*; correct the line"):
        documents(path)
    path.write_text('{"text": "x"}\n{"text": "cut o')  # a download that broke off
    with pytest.raises(InputError, match=r"line 2 is not JSON: Unterminated string"):
        documents(path)
    path.write_text('[{"text": "x"},\n {"text": }]')
    with pytest.raises(InputError, match=r"line 2 is not JSON"):
        documents(path)


def test_fields_of_any_length_and_quotes_in_a_csv(tmp_path):
    """Python's own limit is 128 KiB a field."""
    texts = ["long " * 60_000, 'with "quotes", commas\nand lines', ""]
    assert documents(write_csv(tmp_path / "a.csv", texts)) == texts[:2]


def test_an_open_quote_does_not_take_in_the_rest_of_a_csv(tmp_path):
    (tmp_path / "a.csv").write_text('id,text\n1,"open quote\n2,second\n3,third\n')
    with pytest.raises(InputError, match=r"breaks off after row 0 \(Error: unexpected end of data"):
        documents(tmp_path / "a.csv")


def test_a_text_with_commas_that_is_not_quoted(tmp_path):
    (tmp_path / "a.csv").write_text("id,text\n1,one\n2,two, three\n")
    with pytest.raises(InputError, match="row 2 has 3 fields, the header has 2; put texts that contain"):
        documents(tmp_path / "a.csv")


def test_broken_parquet_and_arrow_files(tmp_path):
    (tmp_path / "a.parquet").write_text("not parquet")
    with pytest.raises(InputError, match=r"a\.parquet' is not a parquet file"):
        documents(tmp_path / "a.parquet")
    whole = write_parquet(tmp_path / "b.parquet", DOCUMENTS).read_bytes()
    (tmp_path / "b.parquet").write_bytes(whole[:-20])
    with pytest.raises(InputError, match=r"b\.parquet' is not a parquet file"):
        documents(tmp_path / "b.parquet")
    whole = write_arrow(tmp_path / "c.arrow", DOCUMENTS * 50, stream=True).read_bytes()
    (tmp_path / "c.arrow").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"breaks off after row \d+ .*; give a complete file"):
        documents(tmp_path / "c.arrow")


def test_a_parquet_file_with_a_damaged_page(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", [str(i) * 100 for i in range(5000)])
    damaged = bytearray(path.read_bytes())
    damaged[2000:4000] = bytes(2000)
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"breaks off after row \d+"):
        documents(path)


def test_a_stream_that_breaks_in_the_middle():
    """The connection to the hub is lost: the rows before are no corpus."""

    def stream():
        yield from ({"text": "x"} for _ in range(7))
        raise ConnectionError("the peer closed the connection")

    with pytest.raises(
        InputError, match=r"'hub/set' breaks off after row 7 \(ConnectionError: the peer closed"
    ):
        list(texts_of(stream(), "text", "hub/set"))
