"""The number of threads is the one with the shortest step, among halves of the number that is set."""

from __future__ import annotations

import pytest
import torch

from sparsing.decode.autotune import threads

from ...helpers.tiny import tiny_model


def test_counts_are_halved_down_to_one():
    assert threads.thread_counts(6) == [6, 3, 1]
    assert threads.thread_counts(1) == [1]


@pytest.mark.parametrize(("seconds", "best"), [({4: 1.0, 2: 2.0, 1: 3.0}, 4), ({4: 9.0, 2: 1.0, 1: 1.2}, 2)])
def test_the_fastest_number_is_taken(seconds, best, monkeypatch):
    monkeypatch.setattr(threads.torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(threads, "time_with", lambda count, step: seconds[count])
    assert threads.fastest_threads(tiny_model("llama")) == best


def test_a_step_is_timed_and_the_setting_returns():
    before = torch.get_num_threads()
    seen = []
    seconds = threads.time_with(2, lambda: seen.append(torch.get_num_threads()))
    assert seen == [2] * (threads.WARMUP + threads.ROUNDS)
    assert seconds >= 0
    assert torch.get_num_threads() == before
