"""`target_interval`: the confidence interval of the activation ratio at a target perplexity ratio.

The function needs no model: it works on the window sums of one sparse pass and on the result of the search. The
benchmark `benchmarks/interval_coverage.py` therefore checks the same code that `Subject.ratio_interval` runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sparsing.measuring.intervals import effective_units, percentiles, resampled, windows_per_block
from sparsing.measuring.observation import Observation
from sparsing.measuring.search_result import SearchResult

SAMPLING_POWER = -0.4
"""The relative sampling error of the rise is about the rise to this power: -0.32 to -0.5 in the median of all rules on
the demo models, stories260K and SmolLM2, between half and twice PPL-1%."""
_ROUNDS = 8
"""Rounds in which sites share what others cannot take."""


def target_interval(
    active: NDArray[np.float64],
    tokens: NDArray[np.float64],
    observed: Observation,
    found: SearchResult,
    ratio_factor: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> tuple[float, float] | None:
    """95% interval of the activation ratio at the target perplexity.

    It includes three errors. *Sampling*: other text meets the target at another level, so each resample of the
    windows moves the level to where its own perplexity ratio equals the target. *The level*: the height and the
    slope of the curve of the search have standard errors. *Arithmetic noise*: it is part of these errors.

    Args:
        active: Sum over the tokens of a window of the activation ratio (mean over sites), shape `(n_windows,)`.
        tokens: Tokens of each window, shape `(n_windows,)`.
        observed: The pass at the level that the search reports.
        ratio_factor: Maps a shift of `log(strength)` from that level to the factor by which the activation ratio
            changes; takes and returns arrays of shape `(n,)`.

    Returns: (low, high); None for a single window.
    """
    n_windows = len(active)
    if n_windows < 2:
        return None
    values = resampled_at_target(active[:, None], tokens, observed, found, ratio_factor)
    return percentiles(values[:, 0], effective_units(n_windows))


def resampled_at_target(
    active: NDArray[np.float64],
    tokens: NDArray[np.float64],
    observed: Observation,
    found: SearchResult,
    ratio_factor: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    *,
    seed: int = 1,
) -> NDArray[np.float64]:
    """The activation ratio of each site at the target perplexity in each resample, shape `(RESAMPLES, n_sites)`.

    Resample `i` has the same windows for every rule on the same corpus. The other arguments are those of
    `target_interval`.

    Args:
        active: Sum over the tokens of a window of the activation ratio of each site, shape `(n_windows, n_sites)`.
        seed: Of the errors of the level, which two rules must not share.
    """
    columns = np.concatenate([active, np.stack([tokens, observed.rise, observed.labels], axis=1)], axis=1)
    sums = resampled(columns, length=windows_per_block(len(active)))
    tokens, rise, labels = sums[:, -3:].T
    rng = np.random.default_rng(seed)
    # the slope is fitted as a logarithm, and its draws must stay above 0
    slope = found.slope * np.exp(found.slope_sd / found.slope * rng.standard_normal(len(rise)))
    level_error = found.level_sd * rng.standard_normal(len(rise))
    # how far the rise of each resample is from that of the whole text, relative to the curve of the search
    # a level without a rise, which a few tokens may give to a rule whose levels are far apart, has no curve
    curve = math.log(max(found.fitted_ppl_ratio or found.ppl_ratio, 1)) or math.log(found.target_ppl_ratio)
    # at the target, where the relative error is another one than at the level of the pass
    is_moved = found.fitted_strength is not None
    farther = (math.log(found.target_ppl_ratio) / curve) ** SAMPLING_POWER if is_moved else 1.0
    relative = 1 + (rise / labels - observed.mean_rise) / curve * farther
    # no level meets the target if the perplexity of a resample does not rise: it counts with the sparsest level
    shift = -np.log(np.maximum(relative, 1e-9)) / slope + level_error + log_distance(found, observed.strength)
    return scaled_ratios(sums[:, :-3] / tokens[:, None], ratio_factor(shift)[:, None])


def scaled_ratios(ratios: NDArray[np.float64], factor: NDArray[np.float64]) -> NDArray[np.float64]:
    """Activation ratios of sites, such that their mean is multiplied by the factor, and no ratio exceeds 1.

    Args:
        ratios: Shape `(..., n_sites)`.
        factor: Of the mean over sites, shape `(..., 1)`.
    """
    wanted = np.minimum(ratios.mean(-1, keepdims=True) * factor, 1.0) * ratios.shape[-1]
    scaled = np.minimum(ratios * factor, 1.0)
    # what sites at 1 cannot take, the others take
    for _ in range(_ROUNDS):
        full = scaled >= 1
        others = np.where(full, 0.0, scaled).sum(-1, keepdims=True)
        share = (wanted - full.sum(-1, keepdims=True)) / np.maximum(others, 1e-12)
        scaled = np.where(full, 1.0, np.minimum(scaled * share, 1.0))
    return scaled


def log_distance(found: SearchResult, strength: float) -> float:
    """Distance in log(strength) from the level of a pass to the level at which the curve meets the target."""
    if found.fitted_strength is None or strength <= 0:
        return 0.0
    return math.log(found.fitted_strength / strength)
