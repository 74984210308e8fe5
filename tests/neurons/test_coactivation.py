"""The sample of tokens, its packed bits, and the neighbours computed from it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparsing.neurons.coactivation import MIN_FIRINGS, find_neighbours, pack_bits, sample_slots, unpack_bits


@pytest.mark.parametrize("d_ff", [1, 8, 13, 40])
def test_bits_come_back(d_ff):
    active = torch.rand(5, d_ff, generator=torch.Generator().manual_seed(d_ff)) > 0.5
    bits = pack_bits(active)
    assert bits.shape == (5, -(-d_ff // 8))
    assert np.array_equal(unpack_bits(bits.numpy(), d_ff), active.numpy())


@pytest.mark.parametrize(("num_tokens", "sample"), [(10, 10), (1000, 64), (97, 13)])
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_every_slot_is_filled_once_for_any_batch_size(num_tokens, sample, step):
    tokens, slots = [], []
    for begin in range(0, num_tokens, step):
        chosen, places = sample_slots(begin, min(step, num_tokens - begin), num_tokens, sample)
        tokens += (chosen + begin).tolist()
        slots += places.tolist()
    assert slots == list(range(sample))
    assert np.ptp(np.diff(tokens)) <= 1


def test_neighbours_follow_the_correlation_matrix():
    rng = np.random.default_rng(0)
    active = rng.random((400, 30)) < rng.uniform(0.1, 0.6, 30)
    active[:, 7] = active[:, 3] ^ (rng.random(400) < 0.05)
    indices, correlations = find_neighbours(active, 4)
    wanted = np.corrcoef(active.T.astype(float))
    np.fill_diagonal(wanted, -2)
    assert indices[3, 0] == 7
    assert indices[7, 0] == 3
    np.testing.assert_allclose(correlations, np.sort(wanted, axis=1)[:, ::-1][:, :4], atol=1e-5)
    assert np.array_equal(indices, np.argsort(-wanted, axis=1)[:, :4])


def test_a_silent_a_rare_and_an_always_active_neuron_have_no_neighbours():
    active = np.random.default_rng(0).random((100, 6)) < 0.5
    active[:, 0], active[:, 1], active[:, 2] = False, True, False
    active[: MIN_FIRINGS - 1, 2] = True
    indices, correlations = find_neighbours(active, 3)
    assert (indices[:3] == -1).all()
    assert np.isnan(correlations[:3]).all()
    assert set(indices[3:].ravel()) == {3, 4, 5, -1}
