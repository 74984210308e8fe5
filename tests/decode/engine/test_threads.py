"""A team of threads runs a function on each of them, and keeps memory as long as one of them uses it."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest

from sparsing.decode.engine.threads import Team
from sparsing.errors import InputError


class Memory:
    """Stands for arrays that compiled code uses by address."""


def test_every_thread_runs_the_function_at_the_same_time():
    together, seen = threading.Barrier(3, timeout=30), []

    def function(number, word):
        together.wait()
        seen.append((number, word))
        together.wait()

    team = Team(3)
    team.run(function, "word")
    assert sorted(seen) == [(0, "word"), (1, "word"), (2, "word")]


def test_memory_stays_alive_until_every_thread_has_returned():
    """The caller may return first and drop the engine, while another thread is still behind the last barrier."""
    go, ended = threading.Event(), threading.Event()
    memory = Memory()
    weakref.finalize(memory, ended.set)
    team = Team(2)
    team.run(lambda number: number and go.wait(30), keep=memory)
    del memory
    gc.collect()
    assert not ended.is_set()
    go.set()
    assert ended.wait(30)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_closed_team_does_not_wait_for_threads_that_have_ended(threads):
    team = Team(threads)
    team.close()
    team.close()
    with pytest.raises(InputError, match="the engine is closed; open it again"):
        team.run(print)
