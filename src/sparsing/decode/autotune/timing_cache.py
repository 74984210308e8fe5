"""Times candidate implementations of a layer on this machine, and keeps the times in the user's cache folder.

`accelerate` uses these times to choose the fastest candidate for each layer. Candidates are timed in turn, round by
round, over enough layers to outgrow the last-level cache, since decoding reads weights from memory too. A time is
stored under everything that decides it: machine, torch version, threads, shape, dtype, rows at once and activation
ratio. Start with `TimingCache.seconds`.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from sparsing.base.checked_files import check, quietly, read_json
from sparsing.base.results import write_text
from sparsing.errors import InputError
from sparsing.hardware.bandwidth import uncached_bytes
from sparsing.hardware.machine import processor_name

logger = logging.getLogger(__name__)

ROUNDS = 9
"""Timings of each candidate and layer; the median counts."""
MAX_QUARTILE_RATIO = 2.0
"""Times whose upper quartile exceeds the lower one by more than this factor are not stored."""
TOKEN_COUNTS = (1, 2, 4, 8)
"""Rows at once that are timed. Other numbers of rows take the choice of the next larger one."""

Candidates = Mapping[str, Callable[[], object]]
"""Name of a candidate to a call that computes one layer with it."""


class TimingCache:
    """Median times of candidates, read from the cache file or measured; `save` writes the new ones.

    Args:
        device: Device that computes.
        threads: CPU threads that compute.
        folder: Folder of the cache file; None for `cache_folder()`.
    """

    def __init__(self, device: torch.device, threads: int, *, folder: Path | None = None):
        self._path = (folder or cache_folder()) / "decode-timings.json"
        self._machine = f"{_device_name(device)}, torch {torch.__version__}, {threads} threads"
        self._known = _read_file(self._path)
        self._new: dict[str, dict[str, float]] = {}

    def seconds(self, what: str, layers: Callable[[], Sequence[Candidates]]) -> dict[str, float]:
        """Median seconds of each candidate.

        Args:
            what: Describes everything besides the machine that decides the times; part of the key in the file.
            layers: Returns the candidates of several equal layers. It is called only if the times are unknown.
        """
        key = f"{self._machine}: {what}"
        if key not in self._known:
            times = time_candidates(layers())
            self._known[key] = {name: statistics.median(values) for name, values in times.items()}
            if all(_is_steady(values) for values in times.values()):
                self._new[key] = self._known[key]
        return self._known[key]

    def save(self) -> None:
        """Add the new times to the file. If it cannot be written, the next load measures again."""
        if self._new:
            try:
                # another process may have added times since this one read the file
                write_text(self._path, json.dumps(_read_file(self._path) | self._new, indent=1) + "\n")
            except InputError as error:
                logger.info("the timings are not stored: %s", error)


def time_candidates(layers: Sequence[Candidates], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Seconds of each candidate, one value per round and layer. All layers must have the same candidates."""
    names = list(layers[0])
    for layer in layers:
        for name in names:
            layer[name]()  # the first call compiles the kernel and allocates its buffers
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        # reversing every other round avoids that one candidate always follows the same other one
        for name in names if turn % 2 else reversed(names):
            for layer in layers:
                began = time.perf_counter()
                layer[name]()
                _synchronize()
                times[name].append(time.perf_counter() - began)
    return times


def _is_steady(times: Sequence[float]) -> bool:
    """False if other work on the machine disturbed the timing, which is then used once but not stored."""
    low, _, high = statistics.quantiles(times, n=4)
    return high <= MAX_QUARTILE_RATIO * low


def num_uncached_layers(layer_bytes: Sequence[int]) -> int:
    """How many of the first layers are needed to outgrow the last-level cache; all if they do not suffice."""
    wanted = uncached_bytes()
    totals = itertools.accumulate(layer_bytes)
    return next((count for count, total in enumerate(totals, 1) if total >= wanted), len(layer_bytes))


def timed_count(rows: int) -> int:
    """The number of rows in `TOKEN_COUNTS` whose choice a call of `rows` rows takes."""
    return next((count for count in TOKEN_COUNTS if count >= rows), TOKEN_COUNTS[-1])


def cache_folder() -> Path:
    """`sparsing` in the user's cache folder (`XDG_CACHE_HOME`, or `~/.cache`)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparsing"


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = processor_name("model name", "cpu family", "model", "stepping")
    return f"{name}, {os.cpu_count()} cores"


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _read_file(path: Path) -> dict[str, dict[str, float]]:
    """The stored times; none if the file is missing or damaged."""
    hint = "it is written again"
    return (
        quietly(lambda: check(read_json(path, hint=hint), dict[str, dict[str, float]], name="", hint=hint))
        or {}
    )
