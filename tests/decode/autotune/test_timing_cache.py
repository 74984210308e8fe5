"""Candidates are timed in turn, and steady times are stored in the cache file."""

from __future__ import annotations

import time

import torch

from sparsing.decode.autotune import timing_cache
from sparsing.decode.autotune.timing_cache import (
    TimingCache,
    num_uncached_layers,
    time_candidates,
    timed_count,
)

CPU = torch.device("cpu")


def test_every_candidate_is_timed_on_every_layer_in_turn():
    calls = []
    layers = [
        {name: lambda name=name, layer=layer: calls.append((layer, name)) for name in ("a", "b")}
        for layer in range(2)
    ]
    times = time_candidates(layers, rounds=3)
    assert {name: len(values) for name, values in times.items()} == {"a": 6, "b": 6}
    warm, rounds = calls[:4], [calls[4 + 4 * i : 8 + 4 * i] for i in range(3)]
    assert sorted(warm) == [(layer, name) for layer in range(2) for name in ("a", "b")]
    assert [turn[0][1] for turn in rounds] == ["b", "a", "b"]


def test_times_are_stored_and_used_again(tmp_path):
    def layers():
        return [{"slow": lambda: time.sleep(0.02), "fast": lambda: time.sleep(0.002)}]

    first = TimingCache(CPU, 1, folder=tmp_path)
    seconds = first.seconds("two", layers)
    assert seconds["fast"] < seconds["slow"]
    first.save()
    again = TimingCache(CPU, 1, folder=tmp_path)
    if (
        tmp_path / "decode-timings.json"
    ).exists():  # on a busy machine times are unsteady, and nothing is stored

        def never():
            raise AssertionError("timed again")

        assert again.seconds("two", never) == seconds
    timed_again = []
    TimingCache(CPU, 2, folder=tmp_path).seconds("two", lambda: timed_again.append(1) or layers())
    assert timed_again, "another number of threads has other times"


def test_unsteady_times_are_used_and_not_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(
        timing_cache, "time_candidates", lambda layers: {"a": [1.0, 1.0, 9.0, 9.0], "b": [1.0] * 4}
    )
    cache = TimingCache(CPU, 1, folder=tmp_path)
    assert cache.seconds("x", lambda: []) == {"a": 5.0, "b": 1.0}
    cache.save()
    assert not (tmp_path / "decode-timings.json").exists()


def test_a_broken_or_unwritable_cache_is_no_error(tmp_path):
    (tmp_path / "decode-timings.json").write_text("{")
    cache = TimingCache(CPU, 1, folder=tmp_path)
    cache.seconds("x", lambda: [{"a": lambda: time.sleep(0.002)}])
    cache.save()
    blocked = tmp_path / "file"
    blocked.write_text("")
    beside = TimingCache(CPU, 1, folder=blocked)
    beside.seconds("x", lambda: [{"a": lambda: time.sleep(0.002)}])
    beside.save()


def test_counts_and_sizes():
    assert [timed_count(n) for n in (1, 2, 3, 4, 5, 8)] == [1, 2, 4, 4, 8, 8]
    assert num_uncached_layers([1, 1, 1]) == 3
    assert num_uncached_layers([2**40, 1]) == 1
