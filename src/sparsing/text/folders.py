"""The files of a folder that hold text, in order of their paths, and a warning that names the files passed over.

Passed over are hidden files, files that hold no text, rows without the wanted column, files of other splits, and the
README or licence of a folder of data.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from sparsing.errors import InputError
from sparsing.text.files import CODE_SUFFIXES, Kind, kind_of, suffix_of
from sparsing.text.rows import NoTextColumnError, check_column

logger = logging.getLogger(__name__)

DEFAULT_SPLIT = "train"
_TEXT_SUFFIXES = CODE_SUFFIXES | {".txt", ".md", ".rst", ".text", ".log", ""}
_ROW_SUFFIXES = frozenset({".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow"})
FILE_SUFFIXES = (_TEXT_SUFFIXES | _ROW_SUFFIXES | {".gz", ".bz2", ".xz", ".zst"}) - {""}
"""Suffixes by which the name of a text is taken for a file, and not for a dataset of the hub."""
_ABOUT = re.compile(r"(readme|licen[cs]e|notice|changelog)\b", re.IGNORECASE)
_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "test": "test",
    "eval": "validation",
    "dev": "validation",
}
_SPLIT_NAMES |= dict.fromkeys(("validation", "valid", "val"), "validation")
_SPLIT = re.compile(rf"(?:^|[-_./])({'|'.join(_SPLIT_NAMES)})(?=[-_./]|$)", re.IGNORECASE)
_NAMED_FILES = 5
"""Most files that the warning names per reason."""


class TextFile(NamedTuple):
    """A file with text and what it holds."""

    path: Path
    kind: Kind


def text_files(folder: Path, *, split: str | None, column: str) -> list[TextFile]:
    """The files of a folder and its subfolders to read, in order of their paths.

    Args:
        split: Which files of rows are read if their names or folders name splits, such as `train-00000.parquet`. None
            reads `train`.

    Raises:
        InputError: If no file is left, a file of rows is broken, or no file belongs to the split.
    """
    everything = sorted(path for path in folder.rglob("*") if path.is_file())
    passed = _Passed(folder)
    files = []
    for path in everything:
        if any(part.startswith((".", "__pycache__")) for part in path.relative_to(folder).parts):
            continue  # caches, version control and settings are no part of a text
        if kind := _kind_in_folder(path, passed):
            files.append(TextFile(path, kind))
    files = [file for file in files if _has_column(file, column, passed)]
    if any(file.kind != "text" for file in files):
        files = passed.leave_out(files, "about the data", _is_about_data)
        files = _of_split(folder, files, split, passed)
    if not files:
        raise InputError(
            f"folder {str(folder)!r} has no file to read{passed.listing()}; .txt, .md, source code, .jsonl, .csv and"
            " .parquet are read, also compressed"
        )
    if passed.reasons:
        logger.warning("folder %r is read without some files%s", str(folder), passed.listing())
    return files


def splits_of(folder: Path) -> set[str]:
    """The splits that the names of the files of rows in a folder name."""
    return {
        found
        for path in folder.rglob("*")
        if suffix_of(path) in _ROW_SUFFIXES and (found := _split_name(path.relative_to(folder)))
    }


class _Passed:
    """The files that are passed over, by reason."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.reasons: dict[str, list[str]] = {}

    def add(self, path: Path, reason: str) -> None:
        self.reasons.setdefault(reason, []).append(str(path.relative_to(self.folder)))

    def leave_out(
        self, files: list[TextFile], reason: str, is_left_out: Callable[[TextFile], bool]
    ) -> list[TextFile]:
        """The files without those that `is_left_out` names."""
        for file in filter(is_left_out, files):
            self.add(file.path, reason)
        return [file for file in files if not is_left_out(file)]

    def listing(self) -> str:
        """The reasons with the first files of each, or nothing."""
        parts = []
        for reason, names in self.reasons.items():
            more = f" and {len(names) - _NAMED_FILES} more" if len(names) > _NAMED_FILES else ""
            parts.append(f"{reason}: {', '.join(names[:_NAMED_FILES])}{more}")
        return f" ({'; '.join(parts)})" if parts else ""


def _kind_in_folder(path: Path, passed: _Passed) -> Kind | None:
    """What a file holds; None, with a reason in `passed`, if it is not read."""
    if path.stat().st_size == 0:
        passed.add(path, "empty")
        return None
    if suffix_of(path) not in _TEXT_SUFFIXES | _ROW_SUFFIXES:
        passed.add(path, "no text")
        return None
    try:
        return kind_of(path)
    except InputError:
        if suffix_of(path):
            raise
        passed.add(path, "no text")  # a program, for example
        return None


def _is_about_data(file: TextFile) -> bool:
    return file.kind == "text" and _ABOUT.match(file.path.name) is not None


def _of_split(folder: Path, files: list[TextFile], split: str | None, passed: _Passed) -> list[TextFile]:
    """The files of the wanted split, if files of rows name splits; files that name no split stay."""
    names = {file.path: _split_name(file.path.relative_to(folder)) for file in files if file.kind != "text"}
    splits = {name for name in names.values() if name}
    if not splits or (split is None and len(splits) == 1):
        return files
    wanted = _SPLIT_NAMES.get(split or DEFAULT_SPLIT, split)
    if wanted not in splits:
        raise InputError(
            f"folder {str(folder)!r} has no files of split {split or DEFAULT_SPLIT!r}; give one of"
            f" {', '.join(sorted(splits))} with --split"
        )
    return passed.leave_out(
        files, "of another split", lambda file: names.get(file.path) not in (None, wanted)
    )


def _split_name(relative: Path) -> str | None:
    found = _SPLIT.search(relative.as_posix())
    return _SPLIT_NAMES[found[1].lower()] if found else None


def _has_column(file: TextFile, column: str, passed: _Passed) -> bool:
    if file.kind == "text":
        return True
    try:
        check_column(file.path, file.kind, column)
    except NoTextColumnError:
        passed.add(file.path, f"without column {column!r}")
        return False
    return True
