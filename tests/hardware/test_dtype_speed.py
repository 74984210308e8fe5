"""The timing of dtypes is positive, short, and leaves torch as it was."""

from __future__ import annotations

import time

import pytest
import torch

from sparsing.hardware.dtype_speed import TIMED_DTYPES, _reduced_size, time_dtypes


@pytest.mark.parametrize("sizes", [(576, 1536), (4096, 14336)])
def test_every_dtype_is_timed_in_a_short_time(sizes):
    began = time.perf_counter()
    seconds = time_dtypes(*sizes)
    assert time.perf_counter() - began < 3
    assert tuple(seconds) == TIMED_DTYPES
    assert all(0 < value < 3 for value in seconds.values())


def test_threads_and_random_numbers_are_untouched():
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    time_dtypes(64, 128, seconds=0.01)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_only_large_blocks_are_reduced_and_keep_their_proportions():
    assert _reduced_size(576, 1536) == (576, 1536)
    d_model, d_ff = _reduced_size(4096, 16384)
    assert (d_model, d_ff) == (512, 2048)
    assert _reduced_size(16, 2**24) == (64, 2**20)
