"""Measures the memory bandwidth of this machine, the upper bound for decoding at batch 1.

A decoding step at batch 1 reads every weight once, so its time is at least bytes over bandwidth. Benchmarks and
advice report speeds as a share of the bandwidth measured here. Start with `measure_bandwidth`.

The peak is the better of reading and copying. Buffers are many times the size of the last-level cache, each thread
has its own part, and the best of several rounds counts. All three avoid a bandwidth that is measured too low, which
would make every kernel look better than it is.
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
"""Bytes between two uses of the same weight, in units of the last-level cache, so that the weight was evicted."""
_DEFAULT_CACHE = 32 * 2**20
_ROUNDS = 9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bandwidth(Result):
    """Measured memory bandwidth of one device."""

    kind = "bandwidth"

    read_bytes_per_sec: float
    """Best round of reading a buffer once."""
    copy_bytes_per_sec: float
    """Best round of copying a buffer: bytes read plus bytes written."""
    threads: int
    """CPU threads that shared the work; 0 on a GPU."""
    buffer_bytes: int
    """Size of the buffer."""
    device: str = "cpu"
    """`cpu` or a CUDA device."""

    @property
    def peak_bytes_per_sec(self) -> float:
        """The larger of the read and the copy bandwidth."""
        return max(self.read_bytes_per_sec, self.copy_bytes_per_sec)


def last_cache_bytes() -> int:
    """Size of the last-level cache of the first processor; 32 MiB if the system does not report it."""
    sizes = [
        path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    ]
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    # several caches are listed; the largest is the last level
    return max(
        (int(size[:-1]) * units[size[-1]] for size in sizes if size[-1:] in units), default=_DEFAULT_CACHE
    )


def uncached_bytes() -> int:
    """Bytes that must be read before a weight has left the last-level cache: `CACHE_MULTIPLE` times its size."""
    return CACHE_MULTIPLE * last_cache_bytes()


def measure_bandwidth(
    *, threads: int | None = None, device: str = "cpu", buffer_bytes: int | None = None
) -> Bandwidth:
    """Read and copy a buffer several times; takes about a second.

    Args:
        threads: CPU threads, each with its own part of the buffer; None uses as many as torch. No effect on a GPU.
        device: `cpu` or a CUDA device.
        buffer_bytes: None uses 16 times the last-level cache on a CPU and 1 GiB on a GPU.

    Raises:
        InputError: if `threads` is below 1 or the buffer is smaller than 1 MiB.
    """
    import torch

    threads = torch.get_num_threads() if threads is None else threads
    on_cpu = device == "cpu"
    size = buffer_bytes or (2 * uncached_bytes() if on_cpu else 2**30)
    if threads < 1 or size < 2**20:
        raise InputError(
            f"measuring the bandwidth needs threads >= 1 and buffer_bytes >= {2**20}, got {threads} and {size};"
            " leave both out to use the defaults"
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
    """Bytes per second of reading and of copying on the CPU."""
    source = np.ones(size // 4, dtype=np.float32)
    target = np.zeros_like(source)
    parts = list(zip(np.array_split(source, threads), np.array_split(target, threads), strict=True))
    # numpy releases the interpreter lock in max() and copyto(), so the threads run in parallel
    with ThreadPoolExecutor(threads) as pool:
        read = _best_seconds(lambda: list(pool.map(lambda pair: pair[0].max(), parts)))
        copy = _best_seconds(lambda: list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), parts)))
    return source.nbytes / read, 2 * source.nbytes / copy


def _on_gpu(device: str, size: int) -> tuple[float, float]:
    """Bytes per second of reading and of copying on a GPU."""
    import torch

    source = torch.ones(size // 4, device=device)
    target = torch.zeros_like(source)

    # kernels run asynchronously: without waiting, only the launch would be timed
    def synchronized(work: Callable[[], object]) -> Callable[[], object]:
        return lambda: (work(), torch.cuda.synchronize(device))

    read = _best_seconds(synchronized(source.amax))
    copy = _best_seconds(synchronized(lambda: target.copy_(source)))
    return size / read, 2 * size / copy


def _best_seconds(work: Callable[[], object]) -> float:
    """Seconds of the fastest round; the first round warms up and is not counted."""
    times = []
    for _ in range(_ROUNDS + 1):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times[1:])
