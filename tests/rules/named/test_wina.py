"""WINA's own claim for a single layer: on orthogonal columns its mask has the least error of all masks."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from sparsing.rules.order_statistics import largest
from sparsing.rules.scores import sizes

WIDTH = 8


def error(weight: np.ndarray, x: np.ndarray, kept: tuple[int, ...]) -> float:
    """Norm of the change of the output if only these inputs are kept."""
    dropped = [j for j in range(WIDTH) if j not in kept]
    return float(np.linalg.norm(weight[:, dropped] @ x[dropped]))


def test_no_mask_beats_wina_on_orthogonal_columns():
    rng = np.random.default_rng(0)
    beaten = 0
    for k in (1, 3, 6):
        for _ in range(20):
            norms = np.exp(rng.normal(size=WIDTH))
            weight = np.linalg.qr(rng.normal(size=(12, WIDTH)))[0] * norms
            x = rng.normal(size=WIDTH)
            size = sizes(torch.from_numpy(x)[None], torch.from_numpy(norms))
            kept = tuple(largest(size.float(), k)[0].nonzero()[:, 0].tolist())
            errors = {mask: error(weight, x, mask) for mask in itertools.combinations(range(WIDTH), k)}
            assert errors[kept] <= min(errors.values()) * (1 + 1e-6)
            # the error is that of the scores, as the proof says
            dropped = [j for j in range(WIDTH) if j not in kept]
            np.testing.assert_allclose(errors[kept], np.linalg.norm(size[0, dropped]), rtol=1e-6)
            by_size = tuple(sorted(np.argsort(-np.abs(x))[:k].tolist()))  # TEAL's choice
            beaten += errors[kept] < errors[by_size] * (1 - 1e-6)
    assert beaten > 30, "the norms of the columns made no difference"


def test_one_layer_by_hand():
    """Inputs 1, 2, 3 with columns of norm 9, 4, 1: WINA keeps the first two, TEAL the last two."""
    x, norms = torch.tensor([[1.0, -2.0, 3.0]]), torch.tensor([9.0, 4.0, 1.0])
    assert largest(sizes(x, norms), 2).tolist() == [[True, True, False]]
    assert largest(sizes(x, None), 2).tolist() == [[False, True, True]]
