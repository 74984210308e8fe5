"""How many bytes a second this machine's memory gives: the yardstick that decoding at batch 1 is held against.

Reading is what a kernel does with weights, so its share is taken of the better of reading and copying. Buffers are
many times the last cache, each worker has its own part, and the best of several rounds counts: a yardstick that is
too short would flatter every kernel.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from sparsing.base.results import Result
from sparsing.errors import InputError

CACHE_MULTIPLE = 8
"""Bytes that are read between two uses of the same weights, in last-level caches."""
_DEFAULT_CACHE = 32 * 2**20
_ROUNDS = 9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bandwidth(Result):
    """Measured memory bandwidth."""

    read_bytes_per_sec: float
    """Best round of reading a buffer once."""
    copy_bytes_per_sec: float
    """Best round of copying a buffer: bytes read and bytes written, added."""
    threads: int
    """Workers; 0 on a GPU."""
    buffer_bytes: int
    """Size of the buffer."""
    device: str = "cpu"

    @property
    def peak_bytes_per_sec(self) -> float:
        """The better of both."""
        return max(self.read_bytes_per_sec, self.copy_bytes_per_sec)


def last_cache_bytes() -> int:
    """Size of the last-level cache; 32 MiB where the system does not say."""
    sizes = [
        path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    ]
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    return max(
        (int(size[:-1]) * units[size[-1]] for size in sizes if size[-1:] in units), default=_DEFAULT_CACHE
    )


def measure_bandwidth(
    *, threads: int | None = None, device: str = "cpu", buffer_bytes: int | None = None
) -> Bandwidth:
    """Read and copy a buffer with `threads` workers (default: as many as torch uses), in about a second.

    Args:
        threads: Workers, each on its own part; of no effect on a GPU.
        device: `cpu` or a CUDA device.
        buffer_bytes: Default: 16 times the last cache on a CPU, 1 GiB on a GPU.

    Raises:
        InputError: fewer than one thread or a buffer of less than 1 MiB.
    """
    import torch

    threads = torch.get_num_threads() if threads is None else threads
    on_cpu = device == "cpu"
    size = buffer_bytes or (2 * CACHE_MULTIPLE * last_cache_bytes() if on_cpu else 2**30)
    if threads < 1 or size < 2**20:
        raise InputError(
            f"bandwidth needs threads >= 1 and a buffer of at least {2**20} bytes, got {threads} and {size}"
        )
    read, copy = _on_cpu(threads, size) if on_cpu else _on_gpu(device, size)
    return Bandwidth(
        read_bytes_per_sec=read,
        copy_bytes_per_sec=copy,
        threads=threads if on_cpu else 0,
        buffer_bytes=size,
        device=device,
    )


def _on_cpu(threads: int, size: int) -> tuple[float, float]:
    """Bytes per second of reading and of copying; numpy frees the interpreter's lock in both."""
    source = np.ones(size // 4, dtype=np.float32)
    target = np.zeros_like(source)
    parts = list(zip(np.array_split(source, threads), np.array_split(target, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        read = _best(lambda: list(pool.map(lambda pair: pair[0].max(), parts)))
        copy = _best(lambda: list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), parts)))
    return source.nbytes / read, 2 * source.nbytes / copy


def _on_gpu(device: str, size: int) -> tuple[float, float]:
    import torch

    source = torch.ones(size // 4, device=device)
    target = torch.zeros_like(source)

    def settled(work: Callable[[], object]) -> Callable[[], object]:
        return lambda: (work(), torch.cuda.synchronize(device))

    read, copy = _best(settled(source.amax)), _best(settled(lambda: target.copy_(source)))
    return size / read, 2 * size / copy


def _best(work: Callable[[], object]) -> float:
    """Seconds of the fastest round, after one that is not counted."""
    times = []
    for _ in range(_ROUNDS + 1):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times[1:])
