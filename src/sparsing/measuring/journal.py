"""`Journal`: saves the running totals of passes, so that an interrupted run resumes where it stopped.

A pass adds up totals over windows in a fixed order. The journal keeps these totals under the key of the pass, in memory
and, if it has a folder, also on disk. Files are written atomically, at most every few seconds. When a pass is requested
again under the same key, it continues after its last saved window, or returns at once if it was complete. The sums are
then equal to the last bit, because the order of addition is the same.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import numpy as np

from sparsing.base.results import load_arrays, write_arrays

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
        self._folder = folder
        self._identity = json.dumps(identity or {}, sort_keys=True, default=str)
        self._totals: dict[str, Arrays] = {}
        self._saved_at = time.monotonic()

    def get(self, key: str) -> Arrays | None:
        """Totals under this key, complete or not; None if there are none."""
        if key not in self._totals and self._folder is not None and self._path(key).exists():
            self._totals[key] = load_arrays(self._path(key))
        return self._totals.get(key)

    def complete(self, key: str, n_windows: int) -> bool:
        """True if the pass under this key has run over all `n_windows` windows."""
        totals = self.get(key)
        return totals is not None and int(totals["next_window"][0]) >= n_windows

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
            write_arrays(self._path(key), totals)
        self._saved_at = time.monotonic()

    def clear(self) -> None:
        """Deletes all totals, also on disk. Called when the results are written."""
        self._totals.clear()
        if self._folder is not None and self._folder.exists():
            # a process that is killed during a write leaves `.<name>.safetensors.<random>.partial`
            for path in [*self._folder.glob("*.safetensors"), *self._folder.glob(".*.partial")]:
                path.unlink()
            if not any(self._folder.iterdir()):
                self._folder.rmdir()

    def _path(self, key: str) -> Path:
        assert self._folder is not None
        digest = hashlib.sha256(f"{self._identity}\n{key}".encode()).hexdigest()[:24]
        return self._folder / f"{digest}.safetensors"
