"""`compiled`: Numba's `njit` with saved machine code that notices a change of any file it was made from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit

_DECODE = Path(__file__).parents[2]


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorator that compiles a function with `numba.njit`, without Python's lock, and saves the machine code.

    Numba takes saved code if the file of the function itself is unchanged. But the code also contains the functions and
    constants of other files: after a change of those it would compute with old offsets, or never end. Where no folder
    can be written, the code is not saved.

    Args:
        options: Of `numba.njit`.
    """

    def compile_lazily(function: Callable[..., Any]) -> Any:
        try:
            dispatcher: Any = njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # no folder for saved code can be written
            return njit(nogil=True, **options)(function)
        if dispatcher is not function:  # NUMBA_DISABLE_JIT gives the function itself
            saved = dispatcher._cache._cache_file  # Numba has no public way to name further files
            saved._source_stamp = (saved._source_stamp, _SOURCES)
        return dispatcher

    return compile_lazily


def digest(folder: Path) -> str:
    """A digest of the names and the text of all Python files of a package.

    Args:
        folder: The package `decode`, from which all constants of compiled functions come.
    """
    text = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        if path.is_file() and not path.name.startswith("."):  # not the lock files of editors
            text.update(f"{path.relative_to(folder).as_posix()}\0".encode())
            text.update(path.read_bytes())
    return text.hexdigest()


_SOURCES = digest(_DECODE)
