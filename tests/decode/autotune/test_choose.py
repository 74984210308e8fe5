"""The fastest candidate computes a layer, and the choice changes no result."""

from __future__ import annotations

import time

import pytest
import torch

from sparsing.decode._accelerate import accelerate

from ...helpers.decode_models import decoded_logits, tiny


def test_a_slower_kernel_gives_way_to_torch_and_the_rule_stays(own_cache, monkeypatch):
    """If the kernel is slow, torch computes the layers with the same logits."""
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
