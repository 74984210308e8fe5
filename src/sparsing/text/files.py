"""Opens a text file of any compression and encoding, and finds out from its content what the file holds.

Compression is recognised by the first bytes of the file, the encoding by the byte order mark or by the place of NUL
bytes. Every error of reading becomes an `InputError` here (`readable`). Start at `open_text` and `kind_of`.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal, TextIO, cast

from sparsing.errors import InputError

Kind = Literal["text", "json", "csv", "parquet", "arrow"]
"""What a file holds. `json` is JSON lines or one JSON list, `csv` a table with a header and any usual delimiter."""

CODE_SUFFIXES = frozenset(
    {".py", ".c", ".h", ".cpp", ".js", ".ts", ".java", ".go", ".rs", ".html", ".xml", ".tex"}
)
"""Source code and markup: read as characters, whatever they look like."""
_HEAD = 65_536
"""Bytes, after decompression, by which encoding and content are recognised."""
_COMPRESSION_SUFFIXES = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}
_COMPRESSION_MARKS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_BYTE_ORDER_MARKS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_OTHER_FORMATS = (
    (b"version https://git-lfs", "a Git LFS pointer; run `git lfs pull` to get the file itself"),
    (b"%PDF", "a PDF document; extract its text, e.g. with pdftotext"),
    (b"{\\rtf", "an RTF document; save it as plain text"),
    (b"PK\x03\x04", "a ZIP archive (.zip, .docx, .xlsx, .epub); unpack it, or save it as plain text"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it"),
    (b"\xd0\xcf\x11\xe0", "a Word or Excel document; save it as plain text"),
    (b"SQLite format 3", "an SQLite database; export the texts as .jsonl"),
    (b"\x89HDF", "an HDF5 file; export the texts as .jsonl"),
    (b"\x80\x04\x95", "a pickle; write the texts as .jsonl"),
    (b"\x93NUMPY", "a NumPy array; write the texts as .jsonl"),
    (b"GGUF", "a GGUF model; give it as the model, not as the text"),
)
_TAR_MARK = slice(257, 262)


def kind_of(path: Path) -> Kind:
    """What a file holds. The first bytes decide; the suffix decides only between text and csv.

    Raises:
        InputError: If the file is empty, cannot be read, or has a format that is not read.
    """
    with readable(path), path.open("rb") as handle:
        mark = handle.read(6)
    if mark.startswith(b"PAR1"):
        return "parquet"
    if mark == b"ARROW1" or suffix_of(path) == ".arrow":
        return "arrow"
    if suffix_of(path) == ".parquet":
        raise InputError(
            f"{str(path)!r} is not a parquet file: it begins with {mark!r}; give a complete file"
        )
    with open_text(path) as text:
        head = text.read(_HEAD)
    if not head:
        raise InputError(f"file {str(path)!r} is empty; give a file with text")
    if suffix_of(path) in CODE_SUFFIXES:
        return "text"
    if suffix_of(path) in (".jsonl", ".ndjson", ".json") or _is_json(head.lstrip()):
        return "json"
    return "csv" if suffix_of(path) in (".csv", ".tsv") else "text"


def suffix_of(path: Path) -> str:
    """The suffix of the file inside the compression: `.jsonl` for `a.jsonl.gz`; always in lower case."""
    name = path.name.lower()
    for suffix in _COMPRESSION_SUFFIXES:
        name = name.removesuffix(suffix)
    return Path(name).suffix


@contextlib.contextmanager
def open_text(path: Path, *, newline: str | None = None) -> Iterator[TextIO]:
    """The file as text: decompressed and decoded.

    Args:
        newline: As for `open`. None turns every kind of line break into a newline.

    Raises:
        InputError: If the file cannot be opened, has another format, is binary, or if its encoding is not known.
    """
    with readable(path), path.open("rb") as handle:
        raw = _decompressed(path, handle)
        head = raw.peek(_HEAD)[:_HEAD]
        _check_format(path, head)
        with io.TextIOWrapper(raw, encoding=_encoding(path, head), newline=newline) as text:
            yield text


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns every error of reading the file inside the block into an `InputError`."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise InputError(
            f"file {str(path)!r} is not {error.encoding.upper()} text: {error.reason} ({_bad_bytes(error)}); convert"
            " it to UTF-8, e.g. with iconv"
        ) from None
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise InputError(
            f"file {str(path)!r} cannot be read to its end ({error}); give a complete and readable file"
        ) from error


def _bad_bytes(error: UnicodeDecodeError) -> str:
    return f"bytes {error.object[error.start : error.end].hex(' ')}"


def _decompressed(path: Path, handle: IO[bytes]) -> io.BufferedReader:
    first = handle.read(6)
    handle.seek(0)
    found = next((name for mark, name in _COMPRESSION_MARKS.items() if first.startswith(mark)), None)
    named = _COMPRESSION_SUFFIXES.get(path.suffix.lower())
    if named is not None and first and found != named:
        raise InputError(
            f"file {str(path)!r} is not {named}: it begins with {first!r}; give a complete file, or rename it"
        )
    if found is None:
        stream: IO[bytes] = handle
    elif found == "zstd":
        import pyarrow  # reads files of several frames to their end

        stream = cast("IO[bytes]", pyarrow.CompressedInputStream(handle, "zstd"))
    else:
        opener = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}[found]
        stream = cast("IO[bytes]", opener(handle, "rb"))
    return io.BufferedReader(cast("io.RawIOBase", stream), _HEAD)


def _check_format(path: Path, head: bytes) -> None:
    """Raises `InputError` for the formats that a user may take for text."""
    for mark, name in _OTHER_FORMATS:
        if head.startswith(mark):
            raise InputError(f"{str(path)!r} is {name}")
    if head[_TAR_MARK] == b"ustar":
        raise InputError(f"{str(path)!r} is a tar archive; unpack it and give the folder")


def _encoding(path: Path, head: bytes) -> str:
    """The encoding by the byte order mark, else UTF-16 by the place of the NUL bytes, else UTF-8."""
    for mark, encoding in _BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return encoding
    if b"\0" not in head:
        return "utf-8"
    even, odd = head[0::2].count(0), head[1::2].count(0)
    for encoding, many, few in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        text = head[: len(head) // 2 * 2].decode(encoding, "replace")
        # the zero byte of a Latin letter is at one side only; some other characters have it at the other side
        if many > 10 * few and _share_unprintable(text) < 0.01:
            return encoding
    raise InputError(
        f"{str(path)!r} is binary: {head.count(0)} of its first {len(head)} bytes are NUL; give a text file, a .jsonl"
        " or a .parquet file"
    )


def _share_unprintable(text: str) -> float:
    return sum(not (char.isprintable() or char.isspace()) for char in text) / max(1, len(text))


def _is_json(head: str) -> bool:
    """Whether the text begins with a JSON object, or with a list of objects or strings."""
    if head[:1] not in ("{", "["):
        return False
    try:
        value, _ = json.JSONDecoder().raw_decode(head)
    except json.JSONDecodeError as error:
        # a long value is cut off by the end of the head; prose in brackets fails at once
        cut_off = error.msg.startswith("Unterminated string") or error.pos > len(head) // 2
        return cut_off and len(head) > _HEAD // 2
    first = value[0] if isinstance(value, list) and value else value
    return bool(first) and isinstance(first, dict)
