"""Finds the number of CPU threads with which a model decodes fastest on this machine at this moment.

Threads wait for each other after every matrix. If other work holds one of the cores, all threads wait for the slowest,
and two threads can be ten times as slow as one. One-token forwards of the model itself are therefore timed with all
threads, with half of them, and so on down to one.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from sparsing.hardware.threads import use_threads

logger = logging.getLogger(__name__)

ROUNDS, WARMUP = 5, 2
"""Timed forwards with each number of threads, and forwards before them that are not timed."""


def fastest_threads(model: PreTrainedModel) -> int:
    """The number of threads, at most `torch.get_num_threads()`, with which a token is decoded fastest.

    Only a model on the CPU is timed; elsewhere the number of threads stays.
    """
    most = torch.get_num_threads()
    if model.device.type != "cpu" or most == 1:
        return most
    token = torch.zeros((1, 1), dtype=torch.long)

    @torch.inference_mode()
    def step() -> None:
        model(input_ids=token, use_cache=False)

    seconds = {threads: time_with(threads, step) for threads in thread_counts(most)}
    best = min(seconds, key=seconds.__getitem__)
    logger.info("seconds of a token by threads: %s", {n: round(sec, 4) for n, sec in seconds.items()})
    return best


def thread_counts(most: int) -> list[int]:
    """`most`, then half of it, and so on down to 1."""
    counts = [most]
    while counts[-1] > 1:
        counts.append(counts[-1] // 2)
    return counts


def time_with(threads: int, step: Callable[[], None]) -> float:
    """Median seconds of a call with this many threads."""
    times = []
    with use_threads(threads):
        for _ in range(WARMUP + ROUNDS):
            began = time.perf_counter()
            step()
            times.append(time.perf_counter() - began)
    return statistics.median(times[WARMUP:])
