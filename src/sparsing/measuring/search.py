"""Finds the level of a rule at which perplexity rises by a wanted factor, with few real sparse passes.

PPL-p% (Sparsing Law, section 3) is `search(cett, ppl_ratio=1 + p / 100)`, and every other rule has its own.
Loss differences are paired token by token, so they are precise on few tokens: the search first brackets on a
part of the corpus, then finishes on all of it. `log(ppl ratio)` grows like a power of the strength, so it
steps by secants in the logs, kept inside a bracket.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from sparsing.base.results import Result
from sparsing.errors import InputError, TargetError
from sparsing.rules import Reach

if TYPE_CHECKING:
    from sparsing.rules import Rule

TOLERANCE = 1e-4
"""Allowed distance of the perplexity ratio from its target."""
PART_TOLERANCE = 0.05
"""The same on the part, relative to log(target): the rest of the corpus differs by more."""
_MAX_TRIES = 40
_SLOPE = 2.0
"""Assumed until two points tell."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Try(Result):
    """One sparse pass of the search."""

    kind = "search_try"

    level: float
    ppl_ratio: float
    on_all: bool
    """False for a pass over the bracketing part."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchResult(Result):
    """The level found, and how."""

    kind = "search_result"

    level: float
    ppl_ratio: float
    """Reached on the whole corpus."""
    target_ppl_ratio: float
    converged: bool
    """False when no level comes within the tolerance, as on very short texts, where the ratio jumps."""
    monotone: bool
    """False when a sparser level was seen to have the lower perplexity."""
    slope: float
    """d log(log ppl_ratio) / d log(strength) near the level."""
    tries: tuple[Try, ...]


def search(
    rule: Rule,
    ratio_at: Callable[[float, bool], float],
    *,
    ppl_ratio: float,
    reach: Reach,
    part_first: bool = True,
    tolerance: float = TOLERANCE,
) -> SearchResult:
    """Find the level of `rule` with this perplexity ratio.

    Args:
        ratio_at: gives the perplexity ratio at a level, on the whole corpus (True) or on the part (False).
        reach: where to begin and how far to go (`Rule.reach`).
        part_first: False for a corpus too short to have a part.

    Raises:
        InputError: a target of 1 or below.
        TargetError: no level of the rule reaches the target.
    """
    if not (math.isfinite(ppl_ratio) and ppl_ratio > 1):
        raise InputError(
            f"the target ppl_ratio must be above 1, got {ppl_ratio}; 1.01 stands for PPL-1% (--ppl 1)"
        )
    tries: list[Try] = []

    def rise(strength: float, on_all: bool) -> float:
        level = rule.level(strength)
        ratio = ratio_at(level, on_all)
        tries.append(Try(level=level, ppl_ratio=ratio, on_all=on_all))
        return math.log(ratio)

    target, slope = math.log(ppl_ratio), None
    if part_first:
        near = target * PART_TOLERANCE
        start, slope = _solve(lambda s: rise(s, False), target, reach, near)
        _check_reached(rule, tries, target, reach)
        reach = dataclasses.replace(reach, start=start)
    _, slope = _solve(lambda s: rise(s, True), target, reach, math.log1p(tolerance / ppl_ratio), slope)
    _check_reached(rule, tries, target, reach)
    # of levels with the same ratio the sparsest
    final = min(
        (t for t in tries if t.on_all), key=lambda t: (abs(t.ppl_ratio - ppl_ratio), -rule.strength(t.level))
    )
    return SearchResult(
        level=final.level,
        ppl_ratio=final.ppl_ratio,
        target_ppl_ratio=ppl_ratio,
        converged=abs(final.ppl_ratio - ppl_ratio) <= tolerance,
        monotone=_monotone(rule, tries),
        slope=slope or _SLOPE,
        tries=tuple(tries),
    )


def _solve(
    f: Callable[[float], float], target: float, reach: Reach, near: float, slope: float | None = None
) -> tuple[float, float | None]:
    """Strength at which rising `f` meets `target`, and the slope of log f over log strength there if known."""
    points: list[tuple[float, float]] = []
    s = min(reach.start, reach.most)
    while len(points) < _MAX_TRIES:
        points.append((s, f(s)))
        above = min((x for x, y in points if y >= target), default=None)
        below = max((x for x, y in points if y < target and (above is None or x < above)), default=None)
        if abs(points[-1][1] - target) <= near or below == reach.most:
            return s, slope
        if below is not None and above is not None and above - below <= reach.step:
            break  # f jumps over the target: no level lies between
        slope = _slope(points, target, apart=0.05 if slope else 0.005) or slope
        s = _next(points, below, above, target, slope or _SLOPE, reach.most)
    return min(points, key=lambda point: (abs(point[1] - target), -point[0]))[0], slope


def _next(
    points: list[tuple[float, float]],
    below: float | None,
    above: float | None,
    target: float,
    slope: float,
    most: float,
) -> float:
    """The strength to try: along the power law through the nearer end of the bracket, kept inside it."""
    ends = [point for point in points if point[0] in (below, above)]
    nearest, value = min(ends, key=lambda point: abs(point[1] - target))
    factor = (target / value) ** (1 / slope) if value > 0 else 2.0
    step = nearest * min(max(factor, 0.1), 3.0)
    if below is None or above is None:
        return min(most, step)
    # a secant that has not closed in after some steps meets a curve that is no power law: halve instead
    if not below < step < above or len(points) % 4 == 0:
        return math.sqrt(max(below, above * 1e-3) * above)
    return step


def _slope(points: list[tuple[float, float]], target: float, *, apart: float) -> float | None:
    """d log f / d log s between the point nearest to the target and the next one that is well apart from it.

    Near points are of little use: at that scale f is rough, as single neurons of single tokens switch.
    """
    rising = sorted((p for p in points if min(p) > 0), key=lambda p: abs(math.log(p[1] / target)))
    for s, f in rising[1:]:
        run, rise = math.log(s / rising[0][0]), math.log(f / rising[0][1])
        if abs(run) > apart:
            return min(max(rise / run, 0.5), 10.0)
    return None


def _monotone(rule: Rule, tries: list[Try]) -> bool:
    """Whether perplexity rose with strength over the same tokens, but for ripples of a tenth of the rise."""
    for on_all in (False, True):
        same = sorted((rule.strength(t.level), t.ppl_ratio) for t in tries if t.on_all == on_all)
        for (_, before), (_, after) in itertools.pairwise(same):
            if after < before - max(TOLERANCE, 0.1 * abs(before - 1)):
                return False
    return True


def _check_reached(rule: Rule, tries: list[Try], target: float, reach: Reach) -> None:
    last = tries[-1]
    if rule.strength(last.level) >= reach.most and math.log(last.ppl_ratio) < target:
        raise TargetError(
            f"no level of {rule.name} reaches ppl_ratio {math.exp(target):.4f}: at its sparsest"
            f" ({rule.level_name} = {last.level:.4g}) it is {last.ppl_ratio:.4f}; ask for a lower target,"
            " e.g. --ppl 1"
        )


def part_windows(n_windows: int, window: int) -> np.ndarray | None:
    """Windows of the bracketing part: an eighth, spread evenly, 4,096 tokens at least; None if that is half."""
    wanted = max(-(-n_windows // 8), -(-4096 // window))
    if wanted * 2 > n_windows:
        return None
    return np.linspace(0, n_windows - 1, wanted).round().astype(np.int64)
