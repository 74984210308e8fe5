"""The measured bandwidth is plausible and survives saving; impossible settings are rejected."""

from __future__ import annotations

import pytest

from sparsing.errors import InputError
from sparsing.hardware.bandwidth import (
    CACHE_MULTIPLE,
    Bandwidth,
    last_cache_bytes,
    measure_bandwidth,
    uncached_bytes,
)


def test_bandwidth_is_plausible_and_saved(tmp_path):
    bandwidth = measure_bandwidth(threads=2, buffer_bytes=2**23)
    assert 1e8 < bandwidth.read_bytes_per_sec < 1e14
    assert 1e8 < bandwidth.copy_bytes_per_sec < 1e14
    assert bandwidth.peak_bytes_per_sec >= bandwidth.read_bytes_per_sec
    assert (bandwidth.threads, bandwidth.buffer_bytes, bandwidth.device) == (2, 2**23, "cpu")
    assert Bandwidth.load(bandwidth.save(tmp_path / "b.json")) == bandwidth


def test_the_cache_is_a_whole_number_of_kilobytes():
    assert last_cache_bytes() > 0
    assert last_cache_bytes() % 1024 == 0
    assert uncached_bytes() == CACHE_MULTIPLE * last_cache_bytes()


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"threads": 1, "buffer_bytes": 100}])
def test_impossible_settings_are_rejected(wrong):
    with pytest.raises(InputError, match="threads >= 1"):
        measure_bandwidth(**wrong)
