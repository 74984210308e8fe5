"""Ways are timed in turn, the fastest is taken, steady figures are kept in the cache file."""

from __future__ import annotations

import json
import time

import pytest
import torch

from sparsing.decode._accelerate import accelerate
from sparsing.decode.autotune import timings as choosing
from sparsing.decode.autotune.timings import Chooser, enough, fastest, next_count, time_ways

from ...helpers.decode_models import decoded_logits, tiny

CPU = torch.device("cpu")


def test_every_way_is_timed_on_every_member_in_turn():
    calls = []
    members = [{way: lambda way=way, m=m: calls.append((m, way)) for way in ("a", "b")} for m in range(2)]
    times = time_ways(members, rounds=3)
    assert {way: len(found) for way, found in times.items()} == {"a": 6, "b": 6}
    warm, rounds = calls[:4], [calls[4 + 4 * i : 8 + 4 * i] for i in range(3)]
    assert sorted(warm) == [(m, way) for m in range(2) for way in ("a", "b")]
    assert [turn[0][1] for turn in rounds] == ["b", "a", "b"]


def test_figures_are_kept_and_taken_again(tmp_path):
    def members():
        return [{"slow": lambda: time.sleep(0.02), "fast": lambda: time.sleep(0.002)}]

    first = Chooser(CPU, 1, folder=tmp_path)
    seconds = first.seconds("two", members)
    assert fastest(seconds) == "fast"
    first.save()
    again = Chooser(CPU, 1, folder=tmp_path)
    known = list(json.loads((tmp_path / "decode-timings.json").read_text()))
    if known:  # a busy machine is unsteady, and then nothing is kept

        def never():
            raise AssertionError("timed again")

        assert again.seconds("two", never) == seconds
    other = []
    Chooser(CPU, 2, folder=tmp_path).seconds("two", lambda: other.append(1) or members())
    assert other, "other threads, other figures"


def test_unsteady_figures_are_used_and_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(choosing, "time_ways", lambda members: {"a": [1.0, 1.0, 9.0, 9.0], "b": [1.0] * 4})
    chooser = Chooser(CPU, 1, folder=tmp_path)
    assert chooser.seconds("x", lambda: []) == {"a": 5.0, "b": 1.0}
    chooser.save()
    assert not (tmp_path / "decode-timings.json").exists()


def test_a_broken_or_unwritable_cache_is_no_error(tmp_path):
    (tmp_path / "decode-timings.json").write_text("{")
    chooser = Chooser(CPU, 1, folder=tmp_path)
    chooser.seconds("x", lambda: [{"a": lambda: time.sleep(0.002)}])
    chooser.save()
    blocked = tmp_path / "file"
    blocked.write_text("")
    beside = Chooser(CPU, 1, folder=blocked)
    beside.seconds("x", lambda: [{"a": lambda: time.sleep(0.002)}])
    beside.save()


def test_counts_and_sizes():
    assert [next_count(n) for n in (1, 2, 3, 4, 5, 8)] == [1, 2, 4, 4, 8, 8]
    assert enough([1, 1, 1]) == 3
    assert enough([2**40, 1]) == 1


def test_a_slower_kernel_gives_way_to_torch_and_the_rule_stays(own_cache, monkeypatch):
    """Where the kernel is slow, layers go through torch, with the same logits."""
    pytest.importorskip("numba", reason="the CPU kernels need numba: pip install 'sparsing[cpu]'")
    from sparsing.decode.kernels.cpu.block import CpuFFN

    loaded, corpus, thresholds = tiny()
    ids = next(corpus.batches(1)).ids[:, :20]
    with accelerate(loaded.model, thresholds, measure=False) as fast:
        expected = decoded_logits(fast.model, ids, 12)
    quick = CpuFFN.sparse

    def slow(self, x):
        time.sleep(0.02)
        return quick(self, x)

    monkeypatch.setattr(CpuFFN, "sparse", slow)
    with accelerate(loaded.model, thresholds) as fast:
        stats = fast.stats()
        assert {way for layer in stats.layers for way in layer.ways.values()} == {"torch"}
        assert stats.steps == 0, "timing is not decoding"
        torch.testing.assert_close(decoded_logits(fast.model, ids, 12), expected, rtol=1e-4, atol=1e-4)
        assert fast.stats().layers[0].up_ratio == 1.0
