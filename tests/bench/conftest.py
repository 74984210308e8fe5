"""A tiny shape and a tiny cache, so that a benchmark runs in seconds."""

from __future__ import annotations

import pytest

from sparsing.bench.shapes import DecodeShape


@pytest.fixture(scope="session")
def small_shape() -> DecodeShape:
    return DecodeShape(
        name="small", d_model=64, d_ff=256, n_layers=2, n_heads=2, n_kv_heads=2, head_dim=32, vocab_size=320
    )


@pytest.fixture(scope="module", autouse=True)
def small_cache():
    """A cache of 256 KiB: the bandwidth is measured on 4 MiB. Its value matters to no test here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparsing.hardware.bandwidth.last_cache_bytes", lambda: 2**18)
        yield
