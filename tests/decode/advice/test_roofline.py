"""Tokens per second from bytes and bandwidth, against values worked out by hand."""

from __future__ import annotations

import pytest

from sparsing.decode.advice.roofline import Roofline
from sparsing.hardware.bandwidth import Bandwidth


def roofline(dense_tok_per_sec: float) -> Roofline:
    bandwidth = Bandwidth(read_bytes_per_sec=1e9, copy_bytes_per_sec=5e8, threads=1, buffer_bytes=2**20)
    return Roofline(bandwidth=bandwidth, dense_bytes=1e8, dense_tok_per_sec=dense_tok_per_sec)


def test_reading_and_overhead():
    line = roofline(5.0)  # 0.2 s a token, of which reading takes 0.1 s
    assert line.rest_sec == pytest.approx(0.1)
    assert line.tok_per_sec(1e8) == pytest.approx(5)
    assert line.tok_per_sec(5e7) == pytest.approx(1 / 0.15)
    assert line.tok_per_sec(0) == pytest.approx(10)


def test_weights_in_the_cache_leave_no_overhead():
    line = roofline(20.0)  # faster than memory
    assert line.rest_sec == 0
    assert line.tok_per_sec(1e8) == pytest.approx(20)
    assert line.tok_per_sec(5e7) == pytest.approx(40)
