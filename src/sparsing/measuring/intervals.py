"""Confidence intervals by resampling windows: tokens of one window are not independent, windows nearly are."""

from __future__ import annotations

import numpy as np

RESAMPLES = 2000
CONFIDENCE = 0.95


def resampled(columns: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Sums of each column over windows drawn with replacement.

    Args:
        columns: sums of each window, shape `(n_windows, n_columns)`.

    Returns: shape `(RESAMPLES, n_columns)`; the columns of one row share their windows.
    """
    n_windows = len(columns)
    rng = np.random.default_rng(seed)
    sums = np.empty((RESAMPLES, columns.shape[1]))
    for row in sums:  # one resample at a time: memory stays at n_windows
        row[:] = columns[rng.integers(0, n_windows, n_windows)].sum(0)
    return sums


def percentiles(values: np.ndarray) -> tuple[float, float]:
    """The central 95% of the values, NaN left out."""
    edge = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(values, [edge, 1 - edge])
    return float(low), float(high)


def ratio_interval(
    numerator: np.ndarray, denominator: np.ndarray, *, seed: int = 0
) -> tuple[float, float] | None:
    """95% percentile interval of `sum(numerator) / sum(denominator)` over windows.

    Args:
        numerator, denominator: sums of each window, shape `(n_windows,)`.

    Returns: (low, high); None for a single window, which says nothing of its own spread.
    """
    if len(numerator) < 2:
        return None
    top, bottom = resampled(np.stack([numerator, denominator], axis=1), seed=seed).T
    with np.errstate(invalid="ignore", divide="ignore"):
        return percentiles(top / bottom)
