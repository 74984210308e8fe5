"""Confidence intervals by resampling windows of the corpus.

Tokens of one window depend on each other, so windows are the units. Neighbouring windows of one text depend on
each other too, so blocks of them are drawn (moving-block bootstrap, Kuensch 1989, with blocks that wrap round
the end). Few units make percentile intervals too narrow, which is mended by expanding the percentiles to
those of Student's t (Hesterberg 2015, section 5.3).

An interval from one text speaks about texts of the same kind. It cannot know how another source would differ.
"""

from __future__ import annotations

import functools
import math
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import stats  # pyright: ignore[reportMissingTypeStubs]  # SciPy has no stubs

RESAMPLES = 2000
CONFIDENCE = 0.95
_KEPT_DRAWS = 2_000_000
"""Most entries of draws that are kept for the next call."""


def windows_per_block(n_windows: int) -> int:
    """Windows per block: `n ** (1 / 3)`, the rate at which the error of a block bootstrap is least."""
    return max(1, round(n_windows ** (1 / 3))) if n_windows >= 8 else 1


def resampled(columns: NDArray[np.float64], *, seed: int = 0, length: int = 1) -> NDArray[np.float64]:
    """Sums of each column over rows drawn with replacement.

    Args:
        columns: Sums of each window, shape `(n_windows, n_columns)`.
        length: Windows per block. Blocks wrap round the end, so every window is drawn equally often.

    Returns: shape `(RESAMPLES, n_columns)`; the columns of one row share their windows.
    """
    n_windows = len(columns)
    if n_windows * RESAMPLES <= _KEPT_DRAWS:
        return _drawn(n_windows, seed, length) @ columns
    rng = np.random.default_rng(seed)
    # one resample at a time: memory stays at n_windows
    return np.stack([_draw(rng, n_windows, length) @ columns for _ in range(RESAMPLES)])


@functools.lru_cache(maxsize=4)
def _drawn(n_windows: int, seed: int, length: int) -> NDArray[np.float64]:
    """How often each window is in each resample, shape `(RESAMPLES, n_windows)`.

    Several quantities of the same windows are resampled one after the other, so the draws are kept.
    """
    rng = np.random.default_rng(seed)
    return np.stack([_draw(rng, n_windows, length) for _ in range(RESAMPLES)])


def _draw(rng: np.random.Generator, n_windows: int, length: int) -> NDArray[np.float64]:
    """How often each window is in one resample, shape `(n_windows,)`."""
    first = rng.integers(0, n_windows, -(-n_windows // length))
    windows = (first[:, None] + np.arange(length)) % n_windows
    return np.bincount(windows.reshape(-1)[:n_windows], minlength=n_windows).astype(np.float64)


def percentiles(values: NDArray[np.float64], units: float | None = None) -> tuple[float, float]:
    """The central 95% of the values, expanded for the number of units that were resampled if it is given."""
    edges = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2) if units is None else _expanded_edges(units)
    low, high = np.nanquantile(values, edges)  # NaN: a resample without a token
    return float(low), float(high)


def _expanded_edges(units: float) -> tuple[float, float]:
    """Quantiles of an expanded percentile interval."""
    if units < 2:
        return 0.0, 1.0
    tail = (1 - CONFIDENCE) / 2
    stretched = math.sqrt(units / (units - 1)) * float(cast("Any", stats).t.ppf(tail, units - 1))
    edge = float(cast("Any", stats).norm.cdf(stretched))
    return edge, 1 - edge


def effective_units(n_windows: int) -> float:
    """Number of independent units that `n_windows` are taken for: the blocks."""
    return n_windows / windows_per_block(n_windows)


def ratio_interval(
    numerator: NDArray[np.float64], denominator: NDArray[np.float64], *, seed: int = 0
) -> tuple[float, float] | None:
    """95% interval of `sum(numerator) / sum(denominator)` over windows.

    Args:
        numerator, denominator: Sums of each window, shape `(n_windows,)`.

    Returns: (low, high); None for a single window, which says nothing about its own spread.
    """
    if len(numerator) < 2:
        return None
    n_windows = len(numerator)
    columns = np.stack([numerator, denominator], axis=1)
    top, bottom = resampled(columns, seed=seed, length=windows_per_block(n_windows)).T
    with np.errstate(invalid="ignore", divide="ignore"):
        return percentiles(top / bottom, effective_units(n_windows))


def student_factor(n_windows: int) -> float:
    """How much wider a 95% interval is by Student's t than by the normal distribution, for two windows or more."""
    edge = (1 + CONFIDENCE) / 2
    return float(cast("Any", stats).t.ppf(edge, n_windows - 1) / cast("Any", stats).norm.ppf(edge))


def relative_sampling_sd(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> float:
    """Standard error of `sum(numerator) / sum(denominator)` over windows, relative to its value.

    By the delta method on windows, scaled up for blocks that depend on each other. 0 for a single window.
    """
    n = len(numerator)
    total = abs(float(numerator.sum()))
    if n < 2 or total == 0:
        return 0.0
    ratio = float(numerator.sum() / denominator.sum())
    residual = numerator - ratio * denominator
    length = windows_per_block(n)
    # variance of sums over overlapping blocks, which contains the covariance of neighbours
    blocks = np.stack([np.roll(residual, -shift) for shift in range(length)]).sum(0)
    variance = float((blocks**2).sum()) / length * n / (n - 1)
    return math.sqrt(variance) / total
