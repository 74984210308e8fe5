"""Reads files, folders, datasets and texts in memory as a stream of pieces of documents.

A piece has at most about 64 thousand characters, so the memory in use does not depend on the length of a document.
Where possible a piece ends at a line break. `corpus.py` and the training data turn the pieces into tokens. `files.py`
knows compression and encoding, `rows.py` structured files, `folders.py` folders, `dataset_sources.py` datasets.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sparsing.errors import InputError
from sparsing.text.dataset_sources import (
    check_hub_name,
    has_splits,
    hub_dataset_rows,
    is_saved_dataset,
    saved_dataset_rows,
)
from sparsing.text.files import Kind, kind_of, open_text
from sparsing.text.folders import splits_of, text_files
from sparsing.text.rows import read_rows, texts_of

logger = logging.getLogger(__name__)

PIECE = 65_536
"""Characters per piece; the end of the last line may be added."""
DEFAULT_COLUMN = "text"
_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair, as in the JSON string `"\\ud83d"`. No encoding can write it."""


class Piece(NamedTuple):
    """A part of a document."""

    text: str
    ends_document: bool
    """True when this is the last piece of its document."""


def read_pieces(
    source: str | Path | Iterable[str],
    *,
    split: str | None = None,
    column: str | None = None,
    join: str | None = None,
) -> Iterator[Piece]:
    """The pieces of every document, in order. docs/inputs.md lists what is read.

    Args:
        source: A file of text or of rows, a folder of them, a folder that `save_to_disk` wrote, the name of a dataset
            on the hub (`name` or `name:config`), or an iterable of documents.
        split: Split of a dataset, or of a folder whose files name splits. None reads `train`. A source with a single
            part is read whole; `check_options` refuses a split for it.
        column: Column that holds the text of each row. None reads `text`.
        join: Text between documents, which makes one document of all; empty rows are then kept. None leaves documents
            apart and leaves out the empty rows.

    Raises:
        InputError: If there is no such file or dataset, a file is empty, broken, binary or of another format, or a row
            has no text in the column.
    """
    pieces = _pieces(source, split, column or DEFAULT_COLUMN, keep_empty=join is not None)
    return pieces if join is None else _joined(pieces, join)


def check_options(source: str | Path, *, split: str | None = None, column: str | None = None) -> None:
    """Checks that the source may exist, and that `split` and `column`, where they are given, have an effect on it.

    The hub is not asked.

    Raises:
        InputError: If there is no such file, a file cannot be read, or an option would be ignored.
    """
    path = Path(source).expanduser()
    if _is_file(path):
        kind = kind_of(path)
        if split is not None:
            raise InputError(
                f"--split chooses a part of a dataset, but {str(path)!r} is a single file; leave out --split"
            )
        if column is not None and kind == "text":
            raise InputError(
                f"--column chooses a column of rows, but {str(path)!r} is plain text; leave out --column"
            )
    elif not _is_folder(path):
        check_hub_name(str(source))
    elif split is not None:
        names_splits = has_splits(path) if is_saved_dataset(path) else bool(splits_of(path))
        if not names_splits:
            raise InputError(
                f"--split chooses a part of a dataset, but {str(path)!r} holds a single part; leave out --split"
            )


def _pieces(
    source: str | Path | Iterable[str], split: str | None, column: str, *, keep_empty: bool
) -> Iterator[Piece]:
    if not isinstance(source, (str, Path)):
        return _cut_all(_checked(source), "texts in memory", keep_empty=True)
    path = Path(source).expanduser()
    if _is_folder(path):
        if is_saved_dataset(path):
            rows = saved_dataset_rows(path, split=split, column=column)
            return _cut_rows(rows, column, str(path), keep_empty)
        return _read_folder(path, split, column, keep_empty)
    if _is_file(path):
        return _read_file(path, kind_of(path), column, keep_empty)
    check_hub_name(str(source))
    return _cut_rows(hub_dataset_rows(str(source), split=split), column, str(source), keep_empty)


# os.path returns False for a name that is too long for a path, where Path.is_dir raises OSError
def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113


def _read_folder(path: Path, split: str | None, column: str, keep_empty: bool) -> Iterator[Piece]:
    for file in text_files(path, split=split, column=column):
        yield from _read_file(file.path, file.kind, column, keep_empty)


def _read_file(path: Path, kind: Kind, column: str, keep_empty: bool) -> Iterator[Piece]:
    if kind == "text":
        return _read_plain(path)
    return _cut_rows(read_rows(path, kind, column), column, str(path), keep_empty)


def _read_plain(path: Path) -> Iterator[Piece]:
    """The file as one document."""
    with open_text(path) as handle:
        # one piece is held back, since only the end of the file shows which piece is the last one
        text = handle.read(PIECE) + handle.readline(PIECE)
        while block := handle.read(PIECE):
            yield Piece(_without_nul(text, path), False)
            text = block + handle.readline(PIECE)
    yield Piece(_without_nul(text, path), True)


def _without_nul(text: str, path: Path) -> str:
    if "\0" in text:
        raise InputError(
            f"{str(path)!r} has {text.count(chr(0))} NUL characters in the middle, so a part of it is missing or"
            " binary; write the file again"
        )
    return text


def _checked(documents: Iterable[str]) -> Iterator[str]:
    for number, document in enumerate(documents, 1):
        if not isinstance(document, str):
            raise InputError(
                f"document {number} of the texts in memory is a {type(document).__name__}; give strings"
            )
        yield document


def _cut_rows(rows: Iterable[Any], column: str, source: str, keep_empty: bool) -> Iterator[Piece]:
    """One document per row."""
    return _cut_all(texts_of(rows, column, source), source, keep_empty)


def _cut_all(documents: Iterable[str], source: str, keep_empty: bool) -> Iterator[Piece]:
    """The pieces of the documents; lone surrogates become U+FFFD, and a warning counts their documents."""
    replaced: list[int] = []
    try:
        for number, document in enumerate(documents, 1):
            if _SURROGATE.search(document):
                replaced.append(number)
                document = _SURROGATE.sub("\ufffd", document)
            if document or keep_empty:
                yield from _cut(document)
    finally:
        if replaced:
            message = (
                "%s: %d documents have lone surrogates; each becomes U+FFFD, the first is in document %d"
            )
            logger.warning(message, source, len(replaced), replaced[0])


def _cut(document: str) -> Iterator[Piece]:
    begin = 0
    while len(document) - begin > PIECE:
        end = document.rfind("\n", begin, begin + PIECE) + 1
        end = end if end > begin else begin + PIECE  # a line longer than a piece is cut inside
        yield Piece(document[begin:end], False)
        begin = end
    yield Piece(document[begin:], True)


def _joined(pieces: Iterable[Piece], separator: str) -> Iterator[Piece]:
    """One document of all, with the separator between the documents, in pieces of the usual length."""
    parts: list[str] = []
    length, between = 0, ""
    for text, ends in pieces:
        parts += [between, text]
        length += len(between) + len(text)
        between = separator if ends else ""
        if length >= PIECE:
            yield Piece("".join(parts), False)
            parts, length = [], 0
    yield Piece("".join(parts), True)
