"""Remembers what passes have added up, so that a run that was cut off goes on where it was.

A pass is a sum over windows in a fixed order. Its running totals are kept under a key, in memory or, with a
folder, also on disk (written whole or not at all, at most every few seconds). A pass that is asked for again
under the same key continues after its last saved window, or answers at once when it was complete; the sums
are then the same to the last bit, since the order of addition is the same.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import numpy as np

from sparsing.base.results import write_arrays

SAVE_EVERY_SEC = 10.0


class Journal:
    """Totals by key. `identity` says which model, corpus and settings they belong to."""

    def __init__(self, folder: Path | None = None, identity: dict[str, object] | None = None):
        self._folder = folder
        self._identity = json.dumps(identity or {}, sort_keys=True, default=str)
        self._totals: dict[str, dict[str, np.ndarray]] = {}
        self._saved_at = time.monotonic()

    def get(self, key: str) -> dict[str, np.ndarray] | None:
        """Totals under this key, complete or not; None when there are none."""
        if key not in self._totals and self._folder is not None and self._path(key).exists():
            from safetensors.numpy import load_file

            self._totals[key] = load_file(self._path(key))
        return self._totals.get(key)

    def complete(self, key: str, n_windows: int) -> bool:
        """True when the pass under this key has run over all windows."""
        totals = self.get(key)
        return totals is not None and int(totals["next_window"][0]) >= n_windows

    def due(self) -> bool:
        """True when the last save is some seconds old."""
        return time.monotonic() - self._saved_at >= SAVE_EVERY_SEC

    def put(self, key: str, totals: dict[str, np.ndarray]) -> None:
        """Keep totals under this key."""
        self._totals[key] = totals
        if self._folder is not None:
            write_arrays(self._path(key), totals)
        self._saved_at = time.monotonic()

    def clear(self) -> None:
        """Forget everything, on disk too: the results are written."""
        self._totals.clear()
        if self._folder is not None and self._folder.exists():
            # a kill in the middle of a write leaves its `.<name>.safetensors.<random>.partial`
            for path in [*self._folder.glob("*.safetensors"), *self._folder.glob(".*.partial")]:
                path.unlink()
            if not any(self._folder.iterdir()):
                self._folder.rmdir()

    def _path(self, key: str) -> Path:
        assert self._folder is not None
        digest = hashlib.sha256(f"{self._identity}\n{key}".encode()).hexdigest()[:24]
        return self._folder / f"{digest}.safetensors"
