"""A team of threads that all run the same compiled function, and wait for work without using the processor."""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from sparsing.errors import InputError


class Team:
    """Runs a function once on each of several threads, of which the caller is one.

    The function must release Python's lock and take the number of the thread as its first argument. It runs on all
    threads at the same time, so it may contain barriers.
    """

    def __init__(self, threads: int):
        self.size = threads
        self._queues: list[SimpleQueue[Any]] = [SimpleQueue() for _ in range(threads - 1)]
        for number, queue in enumerate(self._queues, 1):
            threading.Thread(target=_work, args=(number, queue), daemon=True, name="sparsing-engine").start()
        self._stop = weakref.finalize(self, _stop, self._queues)

    def run(self, function: Callable[..., Any], *args: Any, keep: object = None) -> None:
        """Call `function(number, *args)` on every thread; returns when the caller's own call has returned.

        Args:
            keep: Holds the memory that the function uses by address. It stays alive until every thread has returned,
                which may be after the caller has returned and dropped it.

        Raises:
            InputError: If the team is closed.
        """
        if not self._stop.alive:
            raise InputError("the engine is closed; open it again")
        for queue in self._queues:
            queue.put((function, args, keep))
        function(0, *args)

    def close(self) -> None:
        """End the threads. A second call does nothing."""
        self._stop()


def _work(number: int, queue: SimpleQueue[Any]) -> None:
    while (task := queue.get()) is not None:
        function, args, _ = task
        function(number, *args)
        del task, function, args, _  # a waiting thread keeps nothing alive


def _stop(queues: list[SimpleQueue[Any]]) -> None:
    for queue in queues:
        queue.put(None)


def yield_address() -> int:
    """Address of the system's `sched_yield`; 0 if the system has no such function: waiting threads then spin."""
    try:
        return ctypes.cast(ctypes.CDLL(None).sched_yield, ctypes.c_void_p).value or 0
    except (OSError, AttributeError, TypeError):
        return 0
