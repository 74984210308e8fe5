"""Ranks of entries against a stable sort in Python, on a CPU and as on an accelerator, with many equal entries."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sparsing.rules.order_statistics
from sparsing.rules.order_statistics import exactly, largest, rising


@pytest.fixture(params=[True, False], ids=["cpu", "accelerator"], autouse=True)
def place(request, monkeypatch):
    monkeypatch.setattr(sparsing.rules.order_statistics, "on_cpu", lambda size: request.param)


@pytest.mark.parametrize("least", [0, -2], ids=["magnitudes", "signed"])
@pytest.mark.parametrize("values", [3, 10**6], ids=["ties", "distinct"])
@pytest.mark.parametrize("kept", [-1, 0, 1, 7, 19, 20, 21])
def test_the_largest_entries_are_those_of_a_stable_sort(values, kept, least):
    size = torch.from_numpy(np.random.default_rng(kept + 1).integers(least, values, (4, 5, 20))).float()
    found = largest(size, kept)
    for row, flags in zip(size.reshape(-1, 20).tolist(), found.reshape(-1, 20).tolist(), strict=True):
        order = sorted(range(20), key=lambda i: -row[i])
        assert [i for i in range(20) if flags[i]] == sorted(order[: max(kept, 0)])


@pytest.mark.parametrize("kept", [1, 7, 19])
def test_further_zeros_may_be_kept_for_callers_that_drop_zeros(kept):
    size = torch.from_numpy(np.random.default_rng(kept).integers(0, 3, (4, 5, 20))).float()
    assert torch.equal(largest(size, kept, all_zeros=True) & (size > 0), largest(size, kept) & (size > 0))


def test_rows_may_keep_different_numbers():
    size = torch.tensor([[1.0, 2.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0], [4.0, 1.0, 1.0, 1.0]])
    smallest, kept = torch.tensor([[2.0], [0.0], [1.0]]), torch.tensor([[2], [0], [3]])
    assert exactly(size, smallest, kept).tolist() == [
        [False, True, False, True],
        [False] * 4,
        [True, True, True, False],
    ]


def test_rising_sorts_rows_and_leaves_the_sizes_alone():
    size = torch.tensor([[3.0, 1.0, 2.0]])
    assert rising(size).tolist() == [[1.0, 2.0, 3.0]]
    assert size.tolist() == [[3.0, 1.0, 2.0]]
    signed = torch.tensor([[3.0, -1.0, 2.0, -2.5, 0.0, -float("inf")]])
    assert rising(signed).tolist() == [[-float("inf"), -2.5, -1.0, 0.0, 2.0, 3.0]]
