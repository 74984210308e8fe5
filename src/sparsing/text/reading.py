"""Reading text: files, folders, jsonl, parquet and datasets of the hub, as a stream of pieces.

A piece is at most about 64 thousand characters and ends after a line where it can, so that memory does not
depend on the length of a document.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sparsing.errors import InputError

PIECE = 65_536
_TEXT = {".txt", ".md", ".rst", ".text", ".py", ".tex", ".html", ".c", ".json", ".log", ""}


def pieces(
    source: str | Path | Iterable[str], *, split: str = "train", column: str = "text"
) -> Iterator[tuple[str, bool]]:
    """Pieces of every document in order, each with True when its document ends there.

    Raises:
        InputError: no such file or dataset, an empty one, a missing column, not UTF-8.
    """
    if not isinstance(source, (str, Path)):
        for document in source:
            yield from _cut(document)
        return
    path = Path(source).expanduser()
    if os.path.isdir(path):  # noqa: PTH112  (Path.is_dir raises on a name that is too long)
        yield from _folder(path, column)
    elif os.path.isfile(path):  # noqa: PTH113
        yield from _file(path, column)
    else:
        yield from _dataset(str(source), split, column)


def _folder(path: Path, column: str) -> Iterator[tuple[str, bool]]:
    files = sorted(f for f in path.rglob("*") if f.is_file() and f.suffix in _TEXT | {".jsonl", ".parquet"})
    if not files:
        raise InputError(f"folder {str(path)!r} has no text file (.txt, .md, .jsonl, .parquet, ...)")
    for file in files:
        if file.stat().st_size:
            yield from _file(file, column)


def _file(path: Path, column: str) -> Iterator[tuple[str, bool]]:
    if path.stat().st_size == 0:
        raise InputError(f"file {str(path)!r} is empty; give a text to measure on")
    try:
        if path.suffix == ".jsonl":
            yield from _rows(_jsonl(path), column, str(path))
        elif path.suffix == ".parquet":
            yield from _rows(_parquet(path, column), column, str(path))
        else:
            yield from _plain(path)
    except UnicodeDecodeError as error:
        raise InputError(
            f"file {str(path)!r} is not UTF-8 text ({error}); convert it, e.g. with iconv"
        ) from None


def _plain(path: Path) -> Iterator[tuple[str, bool]]:
    with path.open(encoding="utf-8") as handle:
        held = handle.read(PIECE) + handle.readline(PIECE)
        while block := handle.read(PIECE):
            yield held, False
            held = block + handle.readline(PIECE)
    yield held, True


def _cut(document: str) -> Iterator[tuple[str, bool]]:
    begin = 0
    while len(document) - begin > PIECE:
        cut = document.rfind("\n", begin, begin + PIECE) + 1
        cut = cut if cut > begin else begin + PIECE
        yield document[begin:cut], False
        begin = cut
    yield document[begin:], True


def _jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as handle:
        for number, line in enumerate(handle, 1):
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{str(path)!r} line {number} is not JSON: {error}") from None


def _parquet(path: Path, column: str) -> Iterator[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise InputError(f"{str(path)!r} is not a parquet file: {error}") from None
    names = file.schema_arrow.names
    if column not in names:
        raise InputError(f"{str(path)!r} has no column {column!r}, it has {names}; name one with --column")
    for batch in file.iter_batches(batch_size=256, columns=[column]):
        yield from batch.to_pylist()


def _rows(rows: Iterable[dict[str, Any]], column: str, source: str) -> Iterator[tuple[str, bool]]:
    for row in rows:
        if not isinstance(row, dict) or not isinstance(row.get(column), str):
            has = sorted(row) if isinstance(row, dict) else type(row).__name__
            raise InputError(f"{source!r}: a row has no text in {column!r}, it has {has}; use --column")
        if row[column]:
            yield from _cut(row[column])


def _dataset(name: str, split: str, column: str) -> Iterator[tuple[str, bool]]:
    """A dataset of the hub, streamed: `name` or `name:config`."""
    import datasets

    repo, _, config = name.partition(":")
    try:
        rows = datasets.load_dataset(repo, config or None, split=split, streaming=True)
    except Exception as error:
        raise InputError(
            f"{name[:200]!r} is no file or folder here, and no dataset of that name could be opened"
            f" ({type(error).__name__}: {str(error)[:200]}); check the path, or give name:config and --split"
        ) from error
    yield from _rows(rows, column, name)  # pyright: ignore[reportArgumentType]
