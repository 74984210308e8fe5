"""How many early points are left out: none of a clean series, and about twenty counts tried in a long one."""

from __future__ import annotations

import numpy as np

from sparsing.laws import FORMS, simulate
from sparsing.laws.warmup import choose_drop

from .series import RELU_X, relu_points


def test_clean_series_keep_their_points():
    counts = [choose_drop(FORMS["relu"], RELU_X, relu_points(seed).y).count for seed in range(6)]
    assert sum(count > 0 for count in counts) <= 1


def test_long_series_try_about_twenty_counts():
    x = np.linspace(1.0, 270.0, 300)
    points = simulate(FORMS["silu"], {"alpha": 0.9, "c": 0.3, "A0": 0.385}, x, noise_sd=8e-4, seed=0)
    chosen = choose_drop(FORMS["silu"], points.scaled, points.y)
    assert chosen.count == 0
    assert list(map(int, chosen.key_by_count)) == list(range(0, 101, 5))
