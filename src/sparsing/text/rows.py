"""Rows of structured files and datasets, and the text in one column of each row.

`read_rows` reads JSON lines, a JSON list, CSV, parquet and arrow files. `texts_of` takes the column and names the rows
that hold no text. An empty text is a row like others; `reading.py` decides whether it is kept.
"""

from __future__ import annotations

import csv
import itertools
import json
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sparsing.errors import InputError, SparsityError
from sparsing.text.files import Kind, open_text, readable

logger = logging.getLogger(__name__)

_LOOK_AHEAD = 10_000
"""Rows after a bad row that are read to count further bad rows for the message."""
_DELIMITERS = (",", ";", "\t", "|")
_OVERFULL = "$more"
"""Key of the fields of a CSV row that has more fields than the header."""


class NoTextColumnError(InputError):
    """The rows of a file have no column of the wanted name."""


def texts_of(rows: Iterable[Any], column: str, source: str) -> Iterator[str]:
    """The text of each row, in order. Rows whose text is null are left out, and a warning counts them.

    Args:
        rows: Mappings from column to value.
        source: Name of the file or dataset, for messages.

    Raises:
        InputError: If a row holds something else than text in this column, or if reading fails after some rows.
    """
    numbered = enumerate(_unbroken(rows, source), 1)
    nulls: list[int] = []
    try:
        for number, row in numbered:
            value = row.get(column) if isinstance(row, Mapping) else None
            if isinstance(value, str) and _OVERFULL not in row:
                yield value
            elif isinstance(row, Mapping) and column in row and value is None:
                nulls.append(number)
            else:
                raise _bad_row(number, row, column, source, numbered)
    finally:
        if nulls:
            logger.warning(
                "%s: %d rows have no text (null) and are left out, the first: row %d",
                source,
                len(nulls),
                nulls[0],
            )


def check_column(path: Path, kind: Kind, column: str) -> None:
    """Raises `NoTextColumnError` if the first row of a file has no such column."""
    for row in itertools.islice(read_rows(path, kind, column), 1):
        if isinstance(row, Mapping) and column not in row:
            raise _bad_row(1, row, column, str(path), iter(()))


def read_rows(path: Path, kind: Kind, column: str) -> Iterator[Any]:
    """The rows of a structured file; of parquet and arrow files only the column is read.

    Raises:
        InputError: If the file is broken, or is a table without this column.
    """
    if kind == "json":
        return _read_json(path)
    if kind == "csv":
        return _read_csv(path, column)
    return _read_parquet(path, column) if kind == "parquet" else _read_arrow(path, column)


def _unbroken(rows: Iterable[Any], source: str) -> Iterator[Any]:
    """The rows; an error of the library that reads them becomes an `InputError` that counts the rows before it."""
    iterator, number = iter(rows), 0
    while True:
        try:
            row = next(iterator)
        except StopIteration:
            return
        except SparsityError:
            raise
        except Exception as error:  # network, decompression, parsing: each library has its own classes
            raise InputError(
                f"{source!r} breaks off after row {number} ({type(error).__name__}: {str(error)[:200]}); give a"
                " complete file, or check the network and run the command again"
            ) from error
        number += 1
        yield row


def _bad_row(
    number: int, row: Any, column: str, source: str, following: Iterator[tuple[int, Any]]
) -> InputError:
    """The error for a row without text: its number, what it holds, and how many of the next rows are like it."""
    if isinstance(row, Mapping) and _OVERFULL in row:
        more = len(row[_OVERFULL])
        return InputError(
            f"{source!r}: row {number} has {len(row) - 1 + more} fields, the header has {len(row) - 1}; put texts"
            " that contain the delimiter into double quotes"
        )
    if not isinstance(row, Mapping):
        found, way_out = (
            f"is {_type_name(row)}, not an object with columns",
            'write objects, e.g. {"text": ...}',
        )
    elif column not in row:
        columns = ", ".join(f"{name} ({_type_name(value)})" for name, value in sorted(row.items()))
        found, way_out = (
            f"has no column {column!r}; it has {columns or 'no columns'}",
            "name the column with --column",
        )
        return NoTextColumnError(f"{source!r}: row {number} {found}; {way_out}")
    else:
        found = f"has {_type_name(row[column])} in column {column!r}, not text"
        way_out = "name another column with --column, or write the text into it"
    bad = total = 1
    for _, later in itertools.islice(following, _LOOK_AHEAD):
        total += 1
        bad += not (
            isinstance(later, Mapping)
            and isinstance(later.get(column), (str, type(None)))
            and column in later
        )
    others = f" ({bad} of {total} rows from there on are not text)" if total > 1 else ""
    return InputError(f"{source!r}: row {number} {found}{others}; {way_out}")


def _no_column(path: Path, column: str, names: list[str]) -> NoTextColumnError:
    return NoTextColumnError(f"{str(path)!r} has no column {column!r}; give one of {names} with --column")


def _type_name(value: Any) -> str:
    names = {
        str: "text",
        type(None): "null",
        dict: "an object",
        list: "a list",
        bool: "a boolean",
        int: "a number",
    }
    return names.get(type(value), "a number" if isinstance(value, float) else type(value).__name__)


def _read_json(path: Path) -> Iterator[Any]:
    """The values of JSON lines; the items of a JSON list; a single JSON object is a single row."""
    with open_text(path) as handle:
        first = next((line for line in handle if line.strip()), "")
    if first.lstrip().startswith("[") or not _is_complete(first):
        yield from _read_document(path)
        return
    with open_text(path) as handle:
        for number, line in enumerate(handle, 1):
            if line.strip():
                yield _parse(path, line, number)


def _read_document(path: Path) -> Iterator[Any]:
    """The items of a file that is one JSON list, or the value of the whole file."""
    with open_text(path) as handle:
        value = _parse(path, handle.read(), None)
    yield from value if isinstance(value, list) else [value]


def _is_complete(line: str) -> bool:
    """False for the first line of an object that is printed over several lines."""
    try:
        json.loads(line)
    except json.JSONDecodeError:
        return not line.lstrip().startswith("{") or line.rstrip().endswith("}")
    return True


def _parse(path: Path, text: str, number: int | None) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        line = number if number is not None else getattr(error, "lineno", 1)
        raise InputError(f"{str(path)!r} line {line} is not JSON: {error}; correct the line") from None


def _read_csv(path: Path, column: str) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # the default of 128 KiB is shorter than many documents
    with open_text(path, newline="") as handle:
        first = handle.readline()
    headers = {
        mark: [name.strip() for name in next(csv.reader([first], delimiter=mark))] for mark in _DELIMITERS
    }
    most = max(_DELIMITERS, key=lambda mark: len(headers[mark]))
    delimiter = next((mark for mark in _DELIMITERS if column in headers[mark]), most)
    header = headers[delimiter]
    if column not in header:
        raise _no_column(path, column, header)
    with open_text(path, newline="") as handle:
        reader = csv.reader(
            handle, delimiter=delimiter, strict=True
        )  # else an open quote takes in the whole rest
        next(reader)
        for fields in reader:
            if not fields:
                continue
            row: dict[str, Any] = dict(itertools.zip_longest(header, fields[: len(header)]))
            yield row | ({_OVERFULL: fields[len(header) :]} if len(fields) > len(header) else {})


def _read_parquet(path: Path, column: str) -> Iterator[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with readable(path):
            file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise InputError(f"{str(path)!r} is not a parquet file: {error}; give a complete file") from None
    names = file.schema_arrow.names
    if column not in names:
        raise _no_column(path, column, names)
    for batch in file.iter_batches(batch_size=256, columns=[column]):
        yield from batch.to_pylist()


def _read_arrow(path: Path, column: str) -> Iterator[dict[str, Any]]:
    import pyarrow

    with readable(path), pyarrow.memory_map(str(path)) as source:
        try:
            is_file = source.read(6) == b"ARROW1"
            source.seek(0)
            reader = pyarrow.ipc.open_file(source) if is_file else pyarrow.ipc.open_stream(source)
        except pyarrow.ArrowInvalid as error:
            raise InputError(f"{str(path)!r} is not an arrow file: {error}; give a complete file") from None
        if column not in reader.schema.names:
            raise _no_column(path, column, reader.schema.names)
        batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
        for batch in batches:
            yield from batch.select([column]).to_pylist()
