"""The number of CPU threads: one setting that torch, Numba and llama.cpp share.

The command line sets it with `set_threads` before torch is imported: `--threads`, else `OMP_NUM_THREADS`, else the
cores that this process may use. Everything that computes reads it as `torch.get_num_threads()`. `use_threads` changes
it for a block of code.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from sparsing.errors import InputError


def available_threads() -> int:
    """`OMP_NUM_THREADS` if it is set, else the number of cores that this process may use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]  # a list has one number per nested level
    return int(wanted) if wanted.isdecimal() and int(wanted) > 0 else _usable_cores()


def set_threads(threads: int | None) -> int:
    """Sets the number of threads of this process; None takes `available_threads`. Returns the number.

    Libraries that are imported later read the number from the environment.

    Raises:
        InputError: If the number is below 1.
    """
    if threads is not None and threads < 1:
        raise InputError(
            f"--threads must be at least 1, got {threads}; this process may use {_usable_cores()}"
        )
    count = threads or available_threads()
    if "torch" in sys.modules:
        _set_in_libraries(count)
    else:
        os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = str(count)
    return count


@contextlib.contextmanager
def use_threads(threads: int) -> Iterator[None]:
    """Runs the block with this many threads for torch and Numba; the previous numbers return, also after an exception.

    Numba cannot use more threads than it started with (`NUMBA_NUM_THREADS`), so it takes that number at most.
    """
    import torch

    before = torch.get_num_threads()
    _set_in_libraries(threads)
    try:
        yield
    finally:
        _set_in_libraries(before)


def _set_in_libraries(threads: int) -> None:
    import torch

    if importlib.util.find_spec("numba") is not None:
        import numba

        # this call starts Numba's threads, which also changes the number of torch: they share one OpenMP library
        numba.get_num_threads()
        most: int = getattr(numba.config, "NUMBA_NUM_THREADS")  # noqa: B009  (unknown to type checkers)
        numba.set_num_threads(max(1, min(threads, most)))
    torch.set_num_threads(threads)


def _usable_cores() -> int:
    """Cores of the affinity of this process, at most as many as the quota of its control group; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))
