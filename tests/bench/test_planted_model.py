"""A random model gets the requested activation ratio, also when it is planted again."""

from __future__ import annotations

import pytest
import torch

from sparsing.bench.planted_model import build_model, plant_model
from sparsing.errors import InputError
from sparsing.sites.discovery import find_sites
from sparsing.sites.tap import tapped


def test_a_model_is_planted_again_and_again(small_shape):
    model = build_model(small_shape, "float32", context=256)
    sites = find_sites(model)
    ids = torch.randint(3, 320, (4, 64), generator=torch.Generator().manual_seed(11))
    for ratio in (0.1, 0.5, 0.1):
        plant_model(model, sites, ratio)
        shares = []

        def count(index, rows, shares=shares):
            shares.append((rows.h != 0).float().mean().item())

        with torch.no_grad(), tapped(sites, count, gate=False):
            model(input_ids=ids)
        assert shares == pytest.approx([ratio] * 2, rel=0.25)


def test_another_dtype_is_rejected(small_shape):
    with pytest.raises(InputError, match="float32 and bfloat16"):
        build_model(small_shape, "int8")


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_an_impossible_ratio_is_rejected(ratio):
    with pytest.raises(InputError, match="in \\(0, 1\\)"):
        plant_model(None, [], ratio)
