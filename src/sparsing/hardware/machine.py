"""The name of the processor and the number of threads, which every timing result records."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator
from pathlib import Path

import torch

from sparsing.hardware.threads import use_threads


def processor_name(*fields: str) -> str:
    """Describe the first processor of this machine.

    Args:
        fields: Fields of `/proc/cpuinfo`, joined by spaces; `model name` if none is given.

    Returns:
        The values of the fields that Linux reports. Other systems return what Python's `platform` knows.
    """
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    except (OSError, UnicodeDecodeError):
        first = ""
    pairs = (line.partition(":") for line in first.splitlines())
    known = {name.strip(): value.strip() for name, _, value in pairs}
    name = " ".join(known[field] for field in fields or ("model name",) if field in known)
    return name or platform.processor() or platform.machine()


@contextlib.contextmanager
def inference_threads(threads: int) -> Iterator[None]:
    """Run the block in inference mode with this many threads for torch and for Numba.

    The previous thread counts are restored at the end, also after an exception.
    """
    with use_threads(threads), torch.inference_mode():
        yield
