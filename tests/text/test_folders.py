"""Folders of text: order, files that are passed over and named, and splits."""

from __future__ import annotations

import pytest

from sparsing.errors import InputError

from ..helpers.texts import documents, write_csv, write_jsonl, write_parquet


def test_a_folder_gives_its_files_in_order_of_name_one_document_each(tmp_path, caplog):
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a.md").write_text("first")
    (tmp_path / "c").mkdir()
    write_jsonl(tmp_path / "c" / "d.jsonl", [{"text": "third"}, {"text": ""}, {"text": "fourth"}])
    assert documents(tmp_path) == ["first", "second", "third", "fourth"]
    assert not caplog.records


def test_the_files_that_are_passed_over_are_named_with_the_reason(tmp_path, caplog):
    (tmp_path / "b.txt").write_text("prose")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff")
    (tmp_path / "program").write_bytes(b"\x7fELF\0\0\0")
    (tmp_path / "package.json").write_text('{"name": "x", "version": 1}')
    write_csv(tmp_path / "scores.csv", ["1"]).write_text("step,loss\n1,2\n")
    assert documents(tmp_path) == ["prose"]
    assert (
        "is read without some files (empty: empty.txt; no text: picture.png, program;"
        " without column 'text': package.json, scores.csv)" in caplog.text
    )


def test_hidden_files_and_caches_are_no_text(tmp_path):
    """A clone has `.git/HEAD` and `.gitattributes`, which have no suffix and were read as prose."""
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("ref: refs/heads/main")
    (tmp_path / ".gitattributes").write_text("*.parquet filter=lfs")
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.txt").write_text("cache")
    (tmp_path / "a.txt").write_text("prose")
    assert documents(tmp_path) == ["prose"]


def test_a_clone_of_a_dataset_gives_the_rows_of_one_split(tmp_path, caplog):
    (tmp_path / "README.md").write_text("# A dataset card, which is no document of the dataset")
    (tmp_path / "data").mkdir()
    write_parquet(tmp_path / "data" / "train-00000-of-00002.parquet", ["a"])
    write_parquet(tmp_path / "data" / "train-00001-of-00002.parquet", ["b"])
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", ["c"])
    write_parquet(tmp_path / "data" / "dev-00000-of-00001.parquet", ["d"])
    assert documents(tmp_path) == ["a", "b"]
    assert "about the data: README.md" in caplog.text
    assert (
        "of another split: data/dev-00000-of-00001.parquet, data/test-00000-of-00001.parquet" in caplog.text
    )
    assert documents(tmp_path, split="test") == ["c"]
    assert documents(tmp_path, split="validation") == ["d"]
    with pytest.raises(InputError, match="no files of split 'all'; give one of test, train, validation"):
        documents(tmp_path, split="all")


def test_a_single_split_needs_no_option(tmp_path):
    write_jsonl(tmp_path / "test.jsonl", [{"text": "x"}])
    assert documents(tmp_path) == documents(tmp_path, split="test") == ["x"]


def test_a_broken_file_of_rows_is_an_error_and_not_passed_over(tmp_path):
    (tmp_path / "a.txt").write_text("prose")
    (tmp_path / "b.parquet").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match=r"b\.parquet' is not a parquet file"):
        documents(tmp_path)


def test_a_folder_without_text_names_what_it_holds(tmp_path):
    with pytest.raises(InputError, match=r"has no file to read; \.txt, \.md"):
        documents(tmp_path)
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    write_jsonl(tmp_path / "b.jsonl", [{"body": "x"}])
    with pytest.raises(
        InputError, match=r"has no file to read \(no text: a\.png; without column 'text': b\.jsonl\)"
    ):
        documents(tmp_path)
