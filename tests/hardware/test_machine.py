"""The processor has a name, and thread counts are restored."""

from __future__ import annotations

import pytest
import torch

from sparsing.hardware.machine import inference_threads, processor_name


def test_the_processor_has_a_name():
    assert processor_name()
    assert processor_name("no such field")


def test_threads_are_restored_after_an_exception():
    pytest.importorskip("numba", reason="the CPU kernels need numba")
    before = torch.get_num_threads()
    seen = []

    def fail():
        seen.append((torch.get_num_threads(), torch.is_inference_mode_enabled()))
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), inference_threads(1):
        fail()
    assert seen == [(1, True)]
    assert (torch.get_num_threads(), torch.is_inference_mode_enabled()) == (before, False)
