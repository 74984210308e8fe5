"""The yardstick: plausible, saved and read again, refused where it would be none."""

from __future__ import annotations

import pytest

from sparsing.errors import InputError
from sparsing.hardware.bandwidth import Bandwidth, last_cache_bytes, measure_bandwidth


def test_measured(tmp_path):
    measured = measure_bandwidth(threads=2, buffer_bytes=2**23)
    assert 1e8 < measured.read_bytes_per_sec < 1e14
    assert 1e8 < measured.copy_bytes_per_sec < 1e14
    assert measured.peak_bytes_per_sec >= measured.read_bytes_per_sec
    assert (measured.threads, measured.buffer_bytes, measured.device) == (2, 2**23, "cpu")
    assert Bandwidth.load(measured.save(tmp_path / "b.json")) == measured


def test_the_cache_is_a_whole_number_of_kilobytes():
    assert last_cache_bytes() > 0
    assert last_cache_bytes() % 1024 == 0


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"threads": 1, "buffer_bytes": 100}])
def test_refused(wrong):
    with pytest.raises(InputError, match="threads >= 1"):
        measure_bandwidth(**wrong)
