"""`lock_folder`: one process at a time writes into a run folder.

The lock is a lock of the operating system on the file `.lock` in the folder, so it ends with the process that holds it,
also after a kill. The file itself stays and contains nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

from filelock import FileLock, Timeout

from sparsing.base.launched import rank
from sparsing.errors import InputError

LOCK_FILE = ".lock"
PARTIAL = ".partial"
"""Suffix of the temporary files of `base.results.write_atomic`; their names begin with a dot."""
_DEPTH = 3
"""Levels of folders below a run folder in which runs write files."""


@contextlib.contextmanager
def lock_folder(folder: Path) -> Generator[Path]:
    """Creates the folder, checks that it can be written, and locks it inside the `with` block. Yields the folder.

    Temporary files that a killed process left in the folder are deleted, except in folders with a lock of their own.
    The same process may lock a folder again. Of the processes of `torchrun` only the first one locks, since it alone
    writes. If the block ends with an error and nothing was written, the folders that this call has created are removed
    again.

    Raises:
        InputError: If the folder cannot be created or written, or if another process has locked it.
    """
    folder = Path(folder)
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # the name of a temporary file is unique, so two commands that check at once do not disturb each other
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        raise InputError(
            f"cannot write {str(folder)!r}: {error}; free some space or choose another folder with -o/--output"
        ) from error
    if rank() > 0:
        yield folder
        return
    lock = FileLock(folder.resolve() / LOCK_FILE, timeout=0, is_singleton=True)
    try:
        with lock:
            _remove_partial_files(folder)
            try:
                yield folder
            except BaseException:
                _remove_empty(created)
                raise
    except Timeout:
        raise InputError(
            f"another process is writing into {str(folder)!r}; wait until it ends, or choose another folder with -o"
        ) from None


def _remove_empty(folders: list[Path]) -> None:
    """Removes folders that contain nothing but a lock file and folders before them in the list."""
    for folder in folders:
        if any(path.name != LOCK_FILE for path in folder.iterdir()):
            return
        shutil.rmtree(folder)


def _remove_partial_files(folder: Path) -> None:
    for depth in range(_DEPTH + 1):
        for path in folder.glob("*/" * depth + f".*{PARTIAL}"):
            inside = itertools.takewhile(lambda place: place != folder, path.parents)
            # a folder below may have its own lock and belong to another process, such as a cell of a sweep
            if not any((place / LOCK_FILE).exists() for place in inside):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
