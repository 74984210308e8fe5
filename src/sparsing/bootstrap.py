"""Confidence intervals by resampling windows: tokens of one window are not independent, windows nearly are."""

from __future__ import annotations

import numpy as np

RESAMPLES = 2000
CONFIDENCE = 0.95


def ratio_interval(
    numerator: np.ndarray, denominator: np.ndarray, *, seed: int = 0
) -> tuple[float, float] | None:
    """95% percentile interval of `sum(numerator) / sum(denominator)` over windows.

    Args:
        numerator, denominator: sums of each window, shape `(n_windows,)`.

    Returns: (low, high); None for a single window, which says nothing of its own spread.
    """
    n_windows = len(numerator)
    if n_windows < 2:
        return None
    rng = np.random.default_rng(seed)
    tops, bottoms = np.empty(RESAMPLES), np.empty(RESAMPLES)
    for i in range(RESAMPLES):  # one resample at a time: memory stays at n_windows
        drawn = rng.integers(0, n_windows, n_windows)
        tops[i], bottoms[i] = numerator[drawn].sum(), denominator[drawn].sum()
    edge = (1 - CONFIDENCE) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        low, high = np.nanquantile(tops / bottoms, [edge, 1 - edge])
    return float(low), float(high)
