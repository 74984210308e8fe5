"""Counts of flags against PyTorch's own sums, also beyond the largest count that a byte holds."""

from __future__ import annotations

import pytest
import torch

from sparsing.rules.flag_counts import count_all, count_over_neurons, count_over_tokens


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 9), (2, 700, 16), (3, 5, 4100)])
def test_counts_equal_sums(shape, share):
    flags = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < share
    assert count_over_tokens(flags).tolist() == flags.sum(1).tolist()
    assert count_over_neurons(flags).tolist() == flags.sum(-1).tolist()
    assert count_all(flags) == flags.sum()


def test_flags_that_are_not_contiguous():
    flags = (torch.rand(4, 40, 6) < 0.5).transpose(1, 2)
    assert count_over_tokens(flags).tolist() == flags.sum(1).tolist()
    assert count_over_neurons(flags).tolist() == flags.sum(-1).tolist()
