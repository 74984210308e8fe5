"""Reads text files, folders, jsonl, parquet and datasets of the hub as a stream of pieces of documents.

A piece has at most about 64 thousand characters, so the memory in use does not depend on the length of a document.
Where possible a piece ends at a line break. `corpus.py` and the training data turn the pieces into tokens.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sparsing.errors import InputError

PIECE = 65_536
"""Characters per piece; the end of the last line may be added."""
_TEXT_SUFFIXES = {".txt", ".md", ".rst", ".text", ".py", ".tex", ".html", ".c", ".json", ".log", ""}


class Piece(NamedTuple):
    """A part of a document."""

    text: str
    ends_document: bool
    """True when this is the last piece of its document."""


def read_pieces(
    source: str | Path | Iterable[str], *, split: str = "train", column: str = "text"
) -> Iterator[Piece]:
    """The pieces of every document, in order.

    Args:
        source: A text file, a folder of text, a .jsonl or .parquet file, the name of a dataset on the hub (`name`
            or `name:config`), or an iterable of documents.
        split: Split of a dataset.
        column: Column of jsonl, parquet and datasets that holds the text.

    Raises:
        InputError: If there is no such file or dataset, a file is empty or is not UTF-8, a row has no such column.
    """
    if not isinstance(source, (str, Path)):
        for document in source:
            yield from _cut(document)
        return
    path = Path(source).expanduser()
    # os.path returns False for a name that is too long for a path, where Path.is_dir raises OSError
    if os.path.isdir(path):  # noqa: PTH112
        yield from _read_folder(path, column)
    elif os.path.isfile(path):  # noqa: PTH113
        yield from _read_file(path, column)
    else:
        yield from _read_dataset(str(source), split, column)


def _read_folder(path: Path, column: str) -> Iterator[Piece]:
    """The files of a folder and its subfolders in alphabetical order; empty files are skipped."""
    suffixes = _TEXT_SUFFIXES | {".jsonl", ".parquet"}
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.suffix in suffixes)
    if not files:
        raise InputError(
            f"folder {str(path)!r} has no text file; .txt, .md, .jsonl, .parquet and some more endings are read"
        )
    for file in files:
        if file.stat().st_size:
            yield from _read_file(file, column)


def _read_file(path: Path, column: str) -> Iterator[Piece]:
    if path.stat().st_size == 0:
        raise InputError(f"file {str(path)!r} is empty; give a file with text")
    try:
        if path.suffix == ".jsonl":
            yield from _cut_rows(_read_jsonl(path), column, str(path))
        elif path.suffix == ".parquet":
            yield from _cut_rows(_read_parquet(path, column), column, str(path))
        else:
            yield from _read_plain(path)
    except UnicodeDecodeError as error:
        raise InputError(
            f"file {str(path)!r} is not UTF-8 text ({error}); convert it, e.g. with iconv"
        ) from None


def _read_plain(path: Path) -> Iterator[Piece]:
    """The file as one document."""
    with path.open(encoding="utf-8") as handle:
        # one piece is held back, since only the end of the file shows which piece is the last one
        text = handle.read(PIECE) + handle.readline(PIECE)
        while block := handle.read(PIECE):
            yield Piece(text, False)
            text = block + handle.readline(PIECE)
    yield Piece(text, True)


def _cut(document: str) -> Iterator[Piece]:
    begin = 0
    while len(document) - begin > PIECE:
        end = document.rfind("\n", begin, begin + PIECE) + 1
        end = end if end > begin else begin + PIECE  # a line longer than a piece is cut inside
        yield Piece(document[begin:end], False)
        begin = end
    yield Piece(document[begin:], True)


def _read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as handle:
        for number, line in enumerate(handle, 1):
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(
                    f"{str(path)!r} line {number} is not JSON: {error}; correct the line"
                ) from None


def _read_parquet(path: Path, column: str) -> Iterator[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise InputError(f"{str(path)!r} is not a parquet file: {error}; give a complete file") from None
    names = file.schema_arrow.names
    if column not in names:
        raise InputError(f"{str(path)!r} has no column {column!r}; give one of {names} with --column")
    for batch in file.iter_batches(batch_size=256, columns=[column]):
        yield from batch.to_pylist()


def _cut_rows(rows: Iterable[Any], column: str, source: str) -> Iterator[Piece]:
    """One document per row; rows with an empty text are skipped."""
    for row in rows:
        if not isinstance(row, dict) or not isinstance(row.get(column), str):
            content = sorted(row) if isinstance(row, dict) else type(row).__name__
            raise InputError(
                f"{source!r}: a row has no text in column {column!r}, it has {content}; name the column with --column"
            )
        if row[column]:
            yield from _cut(row[column])


def _read_dataset(name: str, split: str, column: str) -> Iterator[Piece]:
    """A dataset of the hub, streamed; the name is `name` or `name:config`."""
    import datasets

    repo, _, config = name.partition(":")
    try:
        rows = datasets.load_dataset(repo, config or None, split=split, streaming=True)
    except Exception as error:  # datasets raises errors of many libraries: network, parsing, missing files
        raise InputError(
            # the name may be a whole text that was given by mistake, so the message shows only its beginning
            f"{name[:200]!r} is no file or folder here, and no dataset that can be opened"
            f" ({type(error).__name__}: {str(error)[:200]}); check the path, or give name:config and --split"
        ) from error
    yield from _cut_rows(rows, column, name)
