"""Text that every machine with Python has: the standard library of the running interpreter.

A document is the source of one module (code, comments and docstrings) or one topic of Python's manual
(`pydoc_data/topics.py`). About one document in twenty is held out. A digest of its name decides, so a module is held
out in all versions of Python or in none. Tests, tools that carry data, and tables of numbers are left out.
"""

from __future__ import annotations

import hashlib
import importlib
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

from sparsing.errors import InputError

Split = Literal["train", "heldout"]

_SKIPPED_FOLDERS = frozenset(
    [
        "test",
        "tests",
        "idle_test",
        "idlelib",
        "turtledemo",
        "site-packages",
        "dist-packages",
        "encodings",
        "ensurepip",
        "__pycache__",
        "pydoc_data",
        "__phello__",
    ]
)
_SKIPPED_PREFIXES = ("config-", "_sysconfigdata")
_DATA_TABLES = frozenset({"entities.py", "locale.py", "stringprep.py", "keycodes.py", "keysyms.py"})
_HELDOUT_SHARE = 20
"""One document in this many is held out."""


def library_documents(split: Split = "train", *, root: Path | None = None) -> Iterator[str]:
    """The texts of one split, in the order of their names.

    Args:
        split: "train" or "heldout"; no document is in both.
        root: Folder of the standard library; by default that of the running interpreter.

    Raises:
        InputError: if the split is unknown, or there is no readable module below `root`.
    """
    for _, text in named_library_documents(split, root=root):
        yield text


def named_library_documents(split: Split, *, root: Path | None = None) -> Iterator[tuple[str, str]]:
    """Pairs of name and text, as `library_documents`. A name is a dotted module name, or `topics#` and a topic."""
    if split not in get_args(Split):
        raise InputError(f"split must be one of {', '.join(get_args(Split))}, got {split!r}")
    folder = Path(sysconfig.get_paths()["stdlib"]) if root is None else root
    empty = True
    for name, text in _every_document(folder):
        empty = False
        if _split_of(name) == split:
            yield name, text
    if empty:
        raise InputError(
            f"no Python source below {str(folder)!r}; use a Python whose standard library is not in a zip file"
        )


def _every_document(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*.py"), key=lambda path: path.relative_to(folder).as_posix()):
        relative = path.relative_to(folder)
        text = "" if _skipped(relative) else _read(path)
        if text.strip():
            yield _module(relative), text
    if (folder / "pydoc_data" / "topics.py").exists():
        topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
        yield from ((f"topics#{name}", topics[name]) for name in sorted(topics))


def _module(relative: Path) -> str:
    """Dotted module name, which is the same for `json.py` and `json/__init__.py`."""
    parts = relative.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _skipped(relative: Path) -> bool:
    name = relative.name
    return (
        any(part in _SKIPPED_FOLDERS or part.startswith(_SKIPPED_PREFIXES) for part in relative.parts[:-1])
        or name.startswith(_SKIPPED_PREFIXES)
        or name in _DATA_TABLES
    )


def _read(path: Path) -> str:
    """The source, decoded as it declares; empty if it cannot be read as text."""
    try:
        with tokenize.open(path) as handle:
            return handle.read()
    except (OSError, SyntaxError, UnicodeDecodeError):
        return ""


def _split_of(name: str) -> Split:
    digest = hashlib.sha512(name.encode()).digest()
    return "heldout" if int.from_bytes(digest[:8], "big") % _HELDOUT_SHARE == 0 else "train"
