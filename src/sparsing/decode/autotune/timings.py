"""Which way to compute is fastest here: a short timing at load, kept in the user's cache folder.

Ways are timed in turn, round by round, over layers enough to outgrow the processor's cache, as decoding reads them.
A figure is kept under what decides it: machine, versions, threads, shape, dtype, rows at once and activation ratio.
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

from sparsing.base.results import write_text
from sparsing.errors import InputError
from sparsing.hardware.bandwidth import CACHE_MULTIPLE, last_cache_bytes
from sparsing.hardware.machine import processor

logger = logging.getLogger(__name__)

ROUNDS = 9
"""Timings of each way; the median counts."""
UNSTEADY = 2.0
"""Upper quartile over lower one, beyond which a timing is not kept."""
TOKEN_COUNTS = (1, 2, 4, 8)
"""Rows at once that are timed; others take the choice of the next larger one."""

Ways = Mapping[str, Callable[[], object]]


class Chooser:
    """Times ways, or knows them from the cache file; `save` writes what was new."""

    def __init__(self, device: torch.device, threads: int, *, folder: Path | None = None):
        self._path = (folder or cache_folder()) / "decode-timings.json"
        self._where = f"{machine(device)}, torch {torch.__version__}, {threads} threads"
        self._known = _read(self._path)
        self._new: dict[str, dict[str, float]] = {}

    def seconds(self, what: str, members: Callable[[], Sequence[Ways]]) -> dict[str, float]:
        """Median seconds of each way; `what` names everything beside the machine that decides them.

        Args:
            members: Gives layers that are alike; asked for only when the figure is not known.
        """
        key = f"{self._where}: {what}"
        if key not in self._known:
            times = time_ways(members())
            self._known[key] = {way: statistics.median(found) for way, found in times.items()}
            if all(_steady(found) for found in times.values()):
                self._new[key] = self._known[key]
        return self._known[key]

    def save(self) -> None:
        """Add the new figures to the file; where it cannot be written, the next load times again."""
        if self._new:
            try:
                write_text(self._path, json.dumps(_read(self._path) | self._new, indent=1) + "\n")
            except InputError as error:
                logger.info("timings are not kept: %s", error)


def fastest(seconds: Mapping[str, float]) -> str:
    """The way with the least seconds."""
    return min(seconds, key=lambda way: seconds[way])


def time_ways(members: Sequence[Ways], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Seconds of each way, in turn, over rounds and members, which all have the same ways."""
    names = list(members[0])
    for member in members:
        for name in names:
            member[name]()  # compiles, and fills buffers
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names if turn % 2 else reversed(names):
            for member in members:
                began = time.perf_counter()
                member[name]()
                _wait()
                times[name].append(time.perf_counter() - began)
    return times


def _steady(times: Sequence[float]) -> bool:
    """False where other work on the machine got in between: such timings are used once and not kept."""
    low, _, high = statistics.quantiles(times, n=4)
    return high <= UNSTEADY * low


def enough(sizes: Sequence[int]) -> int:
    """How many of these layers, by bytes, outgrow the last cache well; all of them where they do not."""
    wanted = CACHE_MULTIPLE * last_cache_bytes()
    totals = itertools.accumulate(sizes)
    return next((count for count, total in enumerate(totals, 1) if total >= wanted), len(sizes))


def next_count(tokens: int) -> int:
    """The timed number of rows whose choice `tokens` rows take."""
    return next((count for count in TOKEN_COUNTS if count >= tokens), TOKEN_COUNTS[-1])


def cache_folder() -> Path:
    """`sparsing` in the user's cache folder (`XDG_CACHE_HOME`, or `~/.cache`)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparsing"


def machine(device: torch.device) -> str:
    """The processor that computes, by name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = processor("model name", "cpu family", "model", "stepping")
    return f"{name}, {os.cpu_count()} cores"


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _read(path: Path) -> dict[str, dict[str, float]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}
