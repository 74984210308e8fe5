"""Stages of a pass over the whole corpus. Each stage runs some of the windows, at a level of its own.

Each stage shows better where the target lies, so a search goes on at the level that the stages so far suggest, and need
not repeat them. A pass whose stages ran at several levels counts as one at the mean of log(strength), weighted by
tokens: there the errors of a slope that is not quite known cancel. The rises of each stage are moved to this level
along the expected slope.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import stats  # pyright: ignore[reportMissingTypeStubs]  # SciPy has no stubs

from sparsing.measuring.intervals import relative_sampling_sd
from sparsing.measuring.observation import Observation, StageLevel
from sparsing.measuring.rise_curve import BENDING

LEAST_WINDOWS = 16
"""Fewest windows of a pass whose stages are joined."""
_DISAGREEMENT = 0.02
"""Probability that stages on one curve differ so much by chance, below which they are not joined."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stages:
    """How a search runs a pass in stages."""

    windows: tuple[NDArray[np.int64], ...]
    """The windows of each stage; those of the first are the bracketing part."""
    run: Callable[[float, int], Observation]
    """Runs a stage at a level; the first stage runs as a pass over the part."""
    keep: Callable[[Observation], None]
    """Called with each pass that was joined from stages at several levels."""


def part_windows(n_windows: int, window: int) -> NDArray[np.int64] | None:
    """Indices of the windows of the bracketing part, evenly spaced: an eighth of the corpus, at least 2,048 tokens.

    Returns: shape `(n,)`; None if the part would be more than half of the corpus.
    """
    wanted = max(-(-n_windows // 8), -(-2048 // window))
    if wanted * 2 > n_windows:
        return None
    return np.linspace(0, n_windows - 1, wanted).round().astype(np.int64)


def stage_windows(n_windows: int, part: NDArray[np.int64] | None) -> tuple[NDArray[np.int64], ...]:
    """The windows of each stage: the part, then each time as many windows as before, evenly spaced.

    The last stage has at least half of the corpus. Returns: empty without a part.
    """
    if part is None:
        return ()
    stages = [part]
    left = np.setdiff1d(np.arange(n_windows), part)
    while len(left) > (done := n_windows - len(left)) and len(left) - done >= n_windows // 2:
        chosen = left[np.linspace(0, len(left) - 1, done).round().astype(np.int64)]
        stages.append(chosen)
        left = np.setdiff1d(left, chosen)
    return (*stages, left)


def joined_stages(
    ran: Sequence[Observation], windows: Sequence[NDArray[np.int64]], slope: float, slope_log_sd: float
) -> Observation:
    """Join the stages of a pass at the mean of log(strength), weighted by tokens.

    Args:
        ran: One observation per stage, whose strengths may differ.
        windows: Of each stage.
        slope: d log(rise) / d log(strength).
        slope_log_sd: Standard error of its logarithm.

    Returns: a pass without a level. Its `moved_sd` contains the error of the slope, the bending of the curve, and that
    the windows of a stage have other rises at another level.
    """
    labels = np.array([float(one.labels.sum()) for one in ran])
    shares, logs = labels / labels.sum(), np.log([one.strength for one in ran])
    mean = float(shares @ logs)
    distances = slope * (mean - logs)
    rise, counted = np.zeros((2, sum(len(own) for own in windows)))
    for own, one, distance in zip(windows, ran, distances, strict=True):
        rise[own], counted[own] = one.rise * math.exp(distance), one.labels
    moved = np.array([rise[own].sum() for own in windows]) / labels.sum()
    spread = float(shares @ distances**2)
    sampling = relative_sampling_sd(rise, counted) * math.sqrt(spread)
    height = abs(float(rise.sum())) / labels.sum()
    return Observation(
        strength=math.exp(mean),
        rise=rise,
        labels=counted,
        on_all=True,
        stages=tuple(
            StageLevel(level=_level(one), rise_factor=math.exp(distance))
            for one, distance in zip(ran, distances, strict=True)
        ),
        moved_sd=math.hypot(
            slope_log_sd * float(moved @ distances), height * math.hypot(BENDING * spread, sampling)
        ),
    )


def moved_together(ran: Sequence[Observation], strength: float, slope: float) -> Observation:
    """The stages so far as one observation at this strength."""
    return Observation(
        strength=strength,
        rise=np.concatenate([one.rise * (strength / one.strength) ** slope for one in ran]),
        labels=np.concatenate([one.labels for one in ran]),
        on_all=False,
    )


def agree(joined: Observation, windows: Sequence[NDArray[np.int64]]) -> bool:
    """Whether the moved stages rise alike, apart from the scatter of their windows: one-way analysis of variance.

    A curve that jumps between their levels lets them disagree. Few windows do not show whether they agree.
    """
    if len(joined.rise) < LEAST_WINDOWS:
        return False
    rates = joined.rise / joined.labels
    return float(cast("Any", stats).f_oneway(*(rates[own] for own in windows)).pvalue) >= _DISAGREEMENT


def _level(one: Observation) -> float:
    assert one.level is not None
    return one.level
