"""Documents in every kind of file that is read, for the tests of the package `text`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DOCUMENTS = [
    "first line\nsecond line\n",
    "another\n\n\n  document, with a comma",
    "\u00fcber \u6c34 \U0001f600",
]


def documents(source: Any, **options: Any) -> list[str]:
    """The documents of a source, put together from their pieces."""
    from sparsing.text.reading import read_pieces

    found, held = [], ""
    for text, ends in read_pieces(source, **options):
        held += text
        if ends:
            found.append(held)
            held = ""
    assert held == "", "the last piece must end its document"
    return found


def write_jsonl(path: Path, rows: Sequence[Any]) -> Path:
    """One JSON value per line, and an empty line at the end."""
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    return path


def write_parquet(path: Path, column: Sequence[Any], name: str = "text") -> Path:
    """A table with the column, and a column of numbers."""
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({name: column, "id": list(range(len(column)))}), path)
    return path


def write_arrow(path: Path, column: Sequence[str], *, stream: bool) -> Path:
    """The same as a stream, as `datasets` writes it, or as a file, as pandas does."""
    import pyarrow

    table = pyarrow.table({"text": column, "id": list(range(len(column)))})
    writer = pyarrow.ipc.new_stream if stream else pyarrow.ipc.new_file
    with writer(str(path), table.schema) as out:
        out.write_table(table, max_chunksize=2)
    return path


def write_csv(path: Path, column: Sequence[str], *, delimiter: str = ",") -> Path:
    """A table with a header and quoted texts."""
    import csv

    with path.open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle, delimiter=delimiter, lineterminator="\n").writerows(
            [["id", "text"], *([i, text] for i, text in enumerate(column))]
        )
    return path
