"""Flags against PyTorch's own comparisons and products, in all precisions, at ties, infinities and NaN."""

from __future__ import annotations

import math

import pytest
import torch

from sparsing.rules.flags import above, at_least, kept, nonzero

SHAPE = (70, 130)
"""More entries than those that PyTorch compares itself."""


def values(dtype):
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(-3, 4, SHAPE, generator=generator).to(dtype) / 3
    drawn[0, :3] = torch.tensor([math.nan, math.inf, -math.inf])
    return drawn


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("limit", [0.0, 1 / 3, 2 / 3 + 1e-9, -1e300, math.inf])
def test_comparisons_with_a_number(dtype, limit):
    size = values(dtype)
    assert torch.equal(above(size, limit), size > limit)
    assert torch.equal(at_least(size, limit), size >= limit)


@pytest.mark.parametrize("shape", [(130,), (70, 1), SHAPE])
def test_comparisons_with_a_tensor(shape):
    size = values(torch.float32)
    limit = torch.linspace(-1, 1, math.prod(shape)).view(shape)
    assert torch.equal(above(size, limit), size > limit)
    assert torch.equal(above(size, limit.double()), size > limit.double())
    assert torch.equal(at_least(size, limit), size >= limit)


def test_few_entries_and_none():
    size = torch.tensor([[1.0, 2.0]])
    assert above(size, 1.0).tolist() == [[False, True]]
    assert above(size[:0], 1.0).shape == (0, 2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_nonzero_and_kept(dtype):
    size = values(dtype)
    assert torch.equal(nonzero(size), size != 0)
    finite = size.nan_to_num()
    assert torch.equal(kept(finite, size > 0), finite * (size > 0))
    assert kept(finite, size > 0).dtype == dtype
