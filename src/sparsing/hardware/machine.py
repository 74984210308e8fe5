"""The machine of a benchmark: its processor and its threads."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator
from pathlib import Path

import torch


def processor(*fields: str) -> str:
    """What Linux says of the first processor in these fields, its `model name` by default; else what Python knows."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    except (OSError, UnicodeDecodeError):
        first = ""
    pairs = (line.partition(":") for line in first.splitlines())
    known = {name.strip(): value.strip() for name, _, value in pairs}
    said = " ".join(known[field] for field in fields or ("model name",) if field in known)
    return said or platform.processor() or platform.machine()


@contextlib.contextmanager
def with_threads(threads: int) -> Iterator[None]:
    """torch and the kernels on this many threads; as before afterwards."""
    import numba

    before = torch.get_num_threads(), numba.get_num_threads()
    torch.set_num_threads(threads)
    numba.set_num_threads(threads)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(before[0])
        numba.set_num_threads(before[1])
