"""`Journal`: saves the running totals of passes, so that an interrupted run resumes where it stopped.

A pass adds up totals over windows in a fixed order. The journal keeps these totals under the key of the pass, in memory
and, if it has a folder, also on disk. Files are written atomically, at most every few seconds. When a pass is requested
again under the same key, it continues after its last saved window, or returns at once if it was complete. The sums are
then equal to the last bit, because the order of addition is the same.

The totals of one identity are in a folder of their own, `<folder>/<digest of the identity>/`, beside `identity.json`,
which says what the run is about. Runs of other models or texts therefore never touch each other's totals.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from sparsing.base.checked_files import quietly, read_object
from sparsing.base.results import load_arrays, write_arrays, write_text
from sparsing.errors import InputError

logger = logging.getLogger(__name__)

_IDENTITY_FILE = "identity.json"
SAVE_EVERY_SEC = 10.0
"""Least time between two saves of one pass."""
Arrays = dict[str, np.ndarray]
"""Totals of a pass: every array by its dotted path."""


class Journal:
    """Totals of passes by key.

    Args:
        folder: Where the totals are saved; None keeps them in memory only.
        identity: Everything that decides the totals besides the key: model, corpus, settings. Totals that were saved
            under another identity are never found.
    """

    def __init__(self, folder: Path | None = None, identity: dict[str, object] | None = None):
        self._parent = folder
        self._identity = json.dumps(identity or {}, sort_keys=True, default=str)
        digest = hashlib.sha256(self._identity.encode()).hexdigest()
        self._folder = None if folder is None else folder / digest[:16]
        self._totals: dict[str, Arrays] = {}
        self._saved_at = time.monotonic()

    def get(self, key: str) -> Arrays | None:
        """Totals under this key, complete or not; None if there are none.

        Totals whose file is damaged are dropped with a warning, so that the pass runs again.
        """
        if key not in self._totals and self._folder is not None and self._path(key).exists():
            try:
                self._totals[key] = load_arrays(self._path(key))
            except InputError as error:
                self.drop(key, str(error))
        return self._totals.get(key)

    def drop(self, key: str, reason: str) -> None:
        """Deletes the totals under this key, because they cannot be used; logs the reason."""
        logger.warning("the saved state of a pass is dropped, and the pass runs again: %s", reason)
        self._totals.pop(key, None)
        if self._folder is not None:
            self._path(key).unlink(missing_ok=True)

    def differences(self) -> list[list[str]]:
        """For each interrupted run in the folder that cannot continue here, the names in which its identity differs.

        Empty if a run of this identity can continue.
        """
        if self._folder is None or self._folder.exists() or self._parent is None:
            return []
        own = json.loads(self._identity)
        others = [
            quietly(lambda path=path: read_object(path, hint=""))
            for path in sorted(self._parent.glob(f"*/{_IDENTITY_FILE}"))
        ]
        return [_differences(own, other) for other in others if other is not None]

    def complete(self, key: str, n_windows: int) -> bool:
        """True if the pass under this key has run over all `n_windows` windows."""
        totals = self.get(key)
        return (
            totals is not None and "next_window" in totals and int(totals["next_window"].max()) >= n_windows
        )

    def due(self) -> bool:
        """True if the last save is at least `SAVE_EVERY_SEC` old, so that totals should be saved again."""
        return time.monotonic() - self._saved_at >= SAVE_EVERY_SEC

    def put(self, key: str, totals: Arrays) -> None:
        """Saves totals under this key, in place of earlier totals.

        Raises:
            InputError: If the folder is not writable or the disk is full.
        """
        self._totals[key] = totals
        if self._folder is not None:
            if not (self._folder / _IDENTITY_FILE).exists():
                write_text(self._folder / _IDENTITY_FILE, self._identity + "\n")
            write_arrays(self._path(key), totals)
        self._saved_at = time.monotonic()

    def clear(self) -> None:
        """Deletes all totals of this identity, also on disk. Called when the results are written."""
        self._totals.clear()
        if self._folder is None or self._parent is None:
            return
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._parent.exists() and not any(self._parent.iterdir()):
            self._parent.rmdir()

    def _path(self, key: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.safetensors"


def _differences(own: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [name for name in {**own, **other} if own.get(name) != other.get(name)]
