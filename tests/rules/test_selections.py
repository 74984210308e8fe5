"""The selection by threshold: a strict comparison of the score, for batches of any shape."""

from __future__ import annotations

import itertools

import torch

from sparsing.rules import SELECTIONS
from sparsing.rules.scores import sizes

COUNTED = torch.ones(2, 3, dtype=torch.bool)


def test_it_is_strict_and_cuts_the_score():
    value = torch.tensor([1.0, -2.0, 0.0, 3.0]).expand(2, 3, 4)
    scale = torch.tensor([2.0, 1.0, 5.0, 0.5])  # scores 2, 2, 0, 1.5
    above = SELECTIONS["above"].active
    size = sizes(value, scale)
    assert above(size, 1.5, COUNTED)[0, 0].tolist() == [True, True, False, False]
    assert above(size, 0.0, COUNTED)[0, 0].tolist() == [True, True, False, True]
    assert above(sizes(value, None), 2.0, COUNTED)[0, 0].tolist() == [False, False, False, True]


def test_the_active_set_shrinks_as_the_threshold_rises():
    value = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0))
    sets = [SELECTIONS["above"].active(value.abs(), t, COUNTED) for t in (0.0, 0.1, 0.5, 1.0, 9.0)]
    assert all((after <= before).all() for before, after in itertools.pairwise(sets))
    assert sets[0].all()
    assert not sets[-1].any()
