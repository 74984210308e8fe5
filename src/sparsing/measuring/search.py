"""`search`: the level of a rule at which perplexity rises by a wanted factor, with few real sparse passes.

PPL-p% (Sparsing Law, section 3) is `search(cett, ppl_ratio=1 + p / 100)`; the search works the same for every
rule. It first brackets the level roughly, with passes over a part of the corpus; a comparison of rules weighs them
against what searches of other rules have found (`hints.py`), and its first pass over the whole corpus runs in stages
that follow the target (`stages.py`). After each pass over the whole corpus the search fits a smooth curve of the rise
(`rise_curve.py`) and tries the level at which the curve meets the target. It stops when the error of the level is small
compared with the sampling error of the corpus. It never refines the level beyond the tolerance, the sampling error or
the arithmetic noise.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparsing.errors import InputError, TargetError
from sparsing.measuring.even_strengths import SAME_STRENGTHS
from sparsing.measuring.hints import NO_HINTS, Hints
from sparsing.measuring.intervals import relative_sampling_sd
from sparsing.measuring.observation import Observation
from sparsing.measuring.rise_curve import (
    NEAR,
    RiseFit,
    SamplingAgainst,
    SlopePrior,
    arithmetic_noise,
    fit_rise,
    scaled_part,
)
from sparsing.measuring.search_result import SearchResult, Try
from sparsing.measuring.stages import Stages, agree, joined_stages, moved_together

if TYPE_CHECKING:
    from sparsing.rules import Reach, Rule

TOLERANCE = 1e-4
"""Smallest distance between the perplexity ratio and its target that a search tries to reach."""
DOUBT = 0.4
"""Accepted error of the rise as a share of the sampling error. At this share the error widens intervals by 8%."""
COMPARED_DOUBT = 0.7
"""The same for the curve along which a comparison moves a pass. At this share the error widens intervals by 22%."""
PART_NEARNESS = 0.3
"""Distance in `log(log(ppl_ratio))` that ends the passes over the part: the whole corpus differs by as much."""
PASSES_WITH_NOISE = 3
"""Fewest passes over the whole corpus in half precision; fewer do not show the arithmetic noise."""
MOST_WITH_NOISE = 5
"""Passes over the whole corpus in half precision after which the search no longer tries to improve the curve."""
NOISE_GUESS = 0.2
"""Assumed arithmetic noise in half precision, as a share of the target rise, until the passes show the noise."""
PART_TRIES_WITH_NOISE = 4
"""Most passes over the part of a measurement in half precision: the part is noisier than the whole."""
COMPARED_NEARNESS = 0.25
"""`PART_NEARNESS` of a comparison, whose pass over the whole corpus goes on at the level of the pass over the part."""
COMPARED_PART_TRIES = 6
"""Most passes over the part in a comparison."""
MOST_MOVED = 0.25
"""Largest distance in `log(log(ppl_ratio))` over which a comparison moves a pass along the curve to the target.

A curve need not be a power law: FAT on `gate` of a SiLU model has a cliff at 0.278, the largest size of negative gates.
At 0.4 its ratio at PPL-5% was 17.8% [15.5, 20.0] on the demo model, where passes at many levels show about 26%, also if
a pass over the part lay at the target: few windows do not show the slope well enough. Where the error of the rule is
calibrated, the way is shorter on such a cliff (`MOST_MOVED_BY_ERROR`)."""
MOST_MOVED_BY_ERROR = 0.6
"""`MOST_MOVED` where the calibrated error of the rule shows the shape of the curve (`even_strengths.py`)."""
MOST_STAGE_MOVED = 2.0
"""Largest distance of a stage of a joined pass from the target, in `MOST_MOVED` or `MOST_MOVED_BY_ERROR`."""
SLOPE_SHOWN = 0.4
"""Distance in `log(log(ppl_ratio))` at which two passes over the part show the slope."""
MOST_JUMP = 0.5
"""Largest distance in `log(log(ppl_ratio))` of the nearest pass from the target where the rise jumps over it. Beyond it
no level meets the target."""
MOST_MISFIT = 4.0
"""Most standard errors between the curve and a pass near the target. Beyond it the rise follows no power law there."""
MOST_UNUSUAL = 3.0
"""Most standard deviations between a slope and the expected one. A steeper slope is that of a jump."""
LEAST_SLOPE = 0.7
"""Least slope of a curve along which a comparison moves a pass. A flatter curve is that of a rule that jumps."""
_ANOTHER_LEVEL = 0.04
"""Distance in log(strength) from the known passes at which another pass over the part shows more of the curve."""
LEFT_NOISE = 1.5
"""Accepted error of the curve of a comparison, in standard deviations of the arithmetic noise of a pass."""
NEAR_ENOUGH = 3.0
"""Distance in `log(log(ppl_ratio))` at which known passes replace the bracketing on the part."""
MOST_DOWN, MOST_UP = 0.1, 3.0
"""Most change of the strength between two passes, as a factor: beyond it the curve is extrapolated too far."""
_BISECTION_FLOOR = 1e-3
"""Lower end of a bisection as a share of its upper end, where no strength below the target is known or it is 0."""
_SAME_STRENGTH = 1e-3
"""Strengths whose logarithms differ by less than this count as the same: a repeated pass repeats its rounding."""
_MAX_TRIES = 40
_RIPPLE = 3.0
"""A fall of perplexity counts if it exceeds this many standard deviations of the arithmetic noise."""


RunLevel = Callable[[float, bool], Observation]
"""Runs a pass at a level, on the whole corpus (True) or on the part (False)."""


def search(
    rule: Rule,
    run: RunLevel,
    *,
    ppl_ratio: float,
    reach: Reach,
    part: NDArray[np.int64] | None = None,
    tolerance: float = TOLERANCE,
    noisy: bool = False,
    known: Sequence[Observation] = (),
    hints: Hints = NO_HINTS,
    by_curve: bool = False,
    stages: Stages | None = None,
) -> SearchResult:
    """Find the level of `rule` with this perplexity ratio.

    Args:
        reach: Where to begin and how far to go (`Rule.reach`).
        part: Windows of the bracketing part; None for a corpus too short to have one.
        noisy: True for half precision: the search then runs enough passes to see the arithmetic noise.
        known: Passes of earlier searches of this rule on the same tokens; this search uses them too.
        hints: From searches of other rules on the same tokens.
        by_curve: Ends the search as soon as the curve gives the level of the target with an error that is small against
            the sampling error, although the nearest pass may be some way off (`MOST_MOVED`, `MOST_MOVED_BY_ERROR`). The
            caller then moves the figures of that pass along the curve.
        stages: With `by_curve`: how the first pass over the whole corpus runs in stages at levels of their own.

    Raises:
        InputError: if the target is 1 or below.
        TargetError: if no level of the rule reaches the target.
    """
    if not (math.isfinite(ppl_ratio) and ppl_ratio > 1):
        raise InputError(
            f"the target ppl_ratio must be above 1, got {ppl_ratio}; 1.01 stands for PPL-1% (--ppl 1)"
        )
    return _Search(
        rule, run, math.log(ppl_ratio), reach, part, tolerance, noisy, known, hints, by_curve, stages
    ).result()


class _Search:
    """The state of one search.

    All strengths inside are even strengths (`even_strengths.py`), also in the constants of this module.
    """

    def __init__(
        self,
        rule: Rule,
        run: RunLevel,
        target: float,
        reach: Reach,
        part: NDArray[np.int64] | None,
        tolerance: float,
        noisy: bool,
        known: Sequence[Observation],
        hints: Hints,
        by_curve: bool,
        stages: Stages | None,
    ):
        self._rule, self._run, self._target = rule, run, target
        self._even = hints.even or SAME_STRENGTHS
        self._reach = dataclasses.replace(
            reach, start=self._even.even(reach.start), most=self._even.even(reach.most)
        )
        self._most_moved = MOST_MOVED if hints.even is None else MOST_MOVED_BY_ERROR
        self._levels: dict[float, float] = {}
        """The level of each pass by its even strength, which does not give back the same digits."""
        known = [
            self._evened(one, rule.level(one.strength) if one.level is None else one.level) for one in known
        ]
        self._windows, self._tolerance, self._noisy = part, tolerance, noisy
        self._hints, self._by_curve = hints, by_curve
        self._stages = stages
        self._expected_at = self._reach.start
        """Where the target is expected before the first pass."""
        self._part = [one for one in known if not one.on_all]
        self._all = [one for one in known if one.on_all]
        self._tries: list[Observation] = []
        self._fits: list[RiseFit | None] = []
        """The curve after the passes so far, if it was fitted; empty after another pass."""

    def result(self) -> SearchResult:
        """Run the search."""
        if self._windows is not None and not self._is_near([*self._part, *self._all]):
            if self._by_curve:
                self._weigh_on_part()
            else:
                self._bracket_on_part()
        final = self._refine()
        fit, noise = self._fit(), self._noise()
        slope_fit = self._fit_with_sampling(final, noise or 0.0) or fit
        ratio = final.ppl_ratio
        # in half precision the curve decides, since noise can move a single pass onto the target
        rise = fit.rise_at(final.strength) if fit and self._noisy else final.mean_rise
        # a comparison would rather move the pass than accept it because the curve is not known well
        allowed = self._allowed(final)
        if fit and (self._noisy or not self._by_curve):
            allowed = max(allowed, fit.rise_sd * self._target)
        at_target = self._even.strength(self._strength_at_target(fit) if fit else final.strength)
        stretch = self._even.stretch(at_target)
        # the figures of a pass whose stages were moved are moved to the target in any case
        meets_target = abs(rise - self._target) <= allowed and not final.stages
        return SearchResult(
            level=self._level(final.strength),
            ppl_ratio=ratio,
            target_ppl_ratio=math.exp(self._target),
            converged=self._accepted() is not None if self._by_curve else meets_target,
            meets_target=meets_target,
            monotone=self._is_monotone(noise or 0.0),
            slope=stretch * (slope_fit.slope if slope_fit else self._hints.slope.median),
            tries=tuple(
                Try(
                    level=self._level(one.strength),
                    ppl_ratio=one.ppl_ratio,
                    on_all=one.on_all,
                    at_several_levels=len(one.stages) > 0,
                )
                for one in self._tries
            ),
            fitted_ppl_ratio=math.exp(fit.rise_at(final.strength)) if fit else None,
            ppl_ratio_noise=None if noise is None else noise * ratio,
            slope_sd=stretch * slope_fit.slope_sd if slope_fit else 0.0,
            level_sd=self._level_sd(final) / stretch if fit else 0.0,
            fitted_strength=at_target if fit else None,
            stretch=None if self._hints.even is None else stretch,
        )

    def _level_sd(self, final: Observation) -> float:
        """Standard error of log(strength) at the target, if figures are moved there from this pass."""
        fit = self._fit()
        assert fit is not None
        if not self._by_curve or final.mean_rise <= 0:
            return fit.level_sd
        # the target level drops other neurons than this pass, so moving the figures there adds a sampling error
        way = abs(math.log(final.mean_rise / self._target)) * relative_sampling_sd(final.rise, final.labels)
        # at a jump the level lies anywhere between the two sides
        gap = self._gap() if self._encloses() and not self._can_be_moved(final) else 0.0
        return math.hypot(fit.rise_sd, way, gap * fit.slope / 2) / fit.slope

    def _level(self, strength: float) -> float:
        """The level of an even strength."""
        known = self._levels.get(strength)
        return self._rule.level(self._even.strength(strength)) if known is None else known

    def _evened(self, one: Observation, level: float, strength: float | None = None) -> Observation:
        """The pass with its even strength in place of its strength."""
        strength = self._even.even(one.strength) if strength is None else strength
        self._levels[strength] = level
        return dataclasses.replace(one, strength=strength)

    def _bracket_on_part(self) -> None:
        """Run passes over the part until a pass is near the target. Passes over the whole corpus start at its level."""
        start = _meet(
            self._rise_by_part,
            self._target,
            self._reach,
            lambda rise: rise > 0 and abs(math.log(rise / self._target)) <= PART_NEARNESS,
            self._same_level,
            self._hints.slope.median,
            most_tries=PART_TRIES_WITH_NOISE if self._noisy else _MAX_TRIES,
        )
        self._reach = dataclasses.replace(self._reach, start=start)

    def _rise_by_part(self, strength: float) -> float:
        """The rise over the whole corpus that is expected from a pass over the part, nats."""
        return self._observe(strength, on_all=False).mean_rise * self._hints.part_factor

    def _weigh_on_part(self) -> None:
        """As `_bracket_on_part`, but weigh each pass over the part against what is known before it.

        Further passes over the part repeat the error of its windows, so they serve only while the way to the target is
        so long that the slope is too uncertain.
        """
        slope, strength, sd = (
            self._hints.slope,
            min(self._reach.start, self._reach.most),
            self._hints.start_sd,
        )
        for _ in range(COMPARED_PART_TRIES):
            one = self._observe(strength, on_all=False)
            distance, sd = self._hints.distance_after(one, self._target, sd)
            if abs(distance) <= COMPARED_NEARNESS or (strength == self._reach.most and distance < 0):
                break
            factor = min(max(math.exp(-distance / slope.median), MOST_DOWN), MOST_UP)
            strength = min(strength * factor, self._reach.most)
            way = math.log(factor) * slope.median
            unknown = abs(way) * slope.log_sd
            if unknown <= COMPARED_NEARNESS and abs(distance + way) <= COMPARED_NEARNESS:
                break
            sd = math.hypot(sd, unknown, distance + way)
        self._reach = dataclasses.replace(self._reach, start=strength)

    def _refine(self) -> Observation:
        """Run passes over the whole corpus until the target is met; returns the pass whose level is reported."""
        fit = self._fit()
        strength = min(fit.strength if fit else self._reach.start, self._reach.most)
        if self._by_curve and self._part and not self._all:
            strength = self._reach.start  # a pass over the whole corpus goes on with the pass over the part
        ran, last_try = 0, len(self._tries) + _MAX_TRIES
        while len(self._tries) < last_try:
            if accepted := self._accepted():
                return accepted
            if (on_part := self._informative_on_part()) is not None:
                self._observe(on_part, on_all=False)
                strength = on_part
                continue
            latest = self._on_all_in_stages(strength) if self._can_run_in_stages() else self._on_all(strength)
            ran += 1
            below, above = self._bracket()
            if below == self._reach.most:
                break
            if self._encloses():
                break  # no level between them differs by more than the accepted error
            if below is not None and above is not None and self._same_level(below, above):
                break  # the rise jumps over the target: no level lies between
            strength = self._next(latest, below, above, ran)
        self._check_reached()
        return self._accepted() or self._nearest()

    def _can_run_in_stages(self) -> bool:
        """Whether the next pass can go on with the last pass over the part, and need not stay at one level.

        Arithmetic noise that is not known is estimated from passes at one level each.
        """
        if self._stages is None or not self._by_curve or self._all or not self._part:
            return False
        return self._part[-1].level is not None and not (self._noisy and self._hints.noise is None)

    def _on_all_in_stages(self, strength: float) -> Observation:
        """A pass over the whole corpus whose stages follow the target; it goes on with the last pass over the part.

        Where a stage turns out to be so far away that the pass is not accepted, this stage runs again. A pass that is
        not accepted in the end, or whose curve is not known to be smooth, is completed at the level of its last stage.
        """
        assert self._stages is not None
        fit, last = self._fit(), len(self._stages.windows) - 1
        slope = SlopePrior(median=fit.slope, log_sd=fit.slope_sd / fit.slope) if fit else self._hints.slope
        ran = [self._part[-1]]
        for stage in range(1, last + 1):
            ran.append(self._on_stage(strength, stage))
            if stage < last:
                strength = self._after_stages(ran, strength, slope.median)
        if self._hints.even is None:
            return self._on_all(strength)
        one = self._joined(ran, slope)
        for _ in ran:
            fit = self._fit()
            at_target = min(fit.strength, self._reach.most) if fit else strength
            again = self._stage_to_repeat(ran, at_target, slope.median)
            if again is None:
                break
            ran[again] = self._on_stage(at_target, again)
            self._forget(one)
            one = self._joined(ran, slope)
        if not one.stages:
            return one
        if self._accepted() is None or not agree(one, self._stages.windows):
            self._forget(one)
            return self._on_all(ran[-1].strength)
        self._stages.keep(dataclasses.replace(one, strength=self._even.strength(one.strength)))
        return one

    def _stage_to_repeat(self, ran: Sequence[Observation], at_target: float, slope: float) -> int | None:
        """The stage that is too far from the target; None if the pass needs no repetition."""
        distances = [abs(slope * math.log(own.strength / at_target)) for own in ran]
        limit = MOST_STAGE_MOVED * self._most_moved if self._accepted() else COMPARED_NEARNESS
        # a factor does not lead from a negative rise to the rise at another level
        limits = [limit if own.mean_rise > 0 else COMPARED_NEARNESS for own in ran]
        excess = [distance - own for distance, own in zip(distances, limits, strict=True)]
        if max(excess) > 0:
            return int(np.argmax(excess))
        # another pass over the part shows the slope
        return 0 if self._hints.wants_slope and distances[0] >= SLOPE_SHOWN else None

    def _forget(self, one: Observation) -> None:
        """Leaves out a pass whose stages run again."""
        self._all.remove(one)
        self._tries.remove(one)
        self._fits.clear()

    def _on_stage(self, strength: float, stage: int) -> Observation:
        assert self._stages is not None
        if stage == 0:
            return self._observe(strength, on_all=False)
        level = self._level(strength)
        return self._evened(self._stages.run(level, stage), level, strength)

    def _after_stages(self, ran: Sequence[Observation], strength: float, slope: float) -> float:
        """The strength of the next stage: the same if the stages so far are near the target together."""
        assert self._stages is not None
        sizes = [len(own) for own in self._stages.windows]
        hints = self._hints.with_more_windows(sizes[0] / sum(sizes), sum(sizes[: len(ran)]) / sum(sizes))
        together = moved_together(ran, strength, slope)
        expected = slope * math.log(strength / self._expected_at)
        distance, _ = hints.distance_after(together, self._target, self._hints.start_sd, expected)
        if abs(distance) <= COMPARED_NEARNESS:
            return strength
        return min(strength * min(max(math.exp(-distance / slope), MOST_DOWN), MOST_UP), self._reach.most)

    def _joined(self, ran: Sequence[Observation], slope: SlopePrior) -> Observation:
        """The pass that these stages make."""
        assert self._stages is not None
        if len({one.strength for one in ran}) == 1:
            return self._on_all(ran[0].strength)
        one = joined_stages(ran, self._stages.windows, slope.median, slope.log_sd)
        level = self._level(one.strength)
        return self._note(self._evened(dataclasses.replace(one, level=level), level, one.strength))

    def _accepted(self) -> Observation | None:
        """The pass over the whole corpus to report; None if another pass is needed."""
        if not self._all:
            return None
        fit, noise = self._fit(), self._noise()
        nearest = self._nearest()
        if not self._noisy:
            off = math.hypot(nearest.mean_rise - self._target, nearest.moved_sd)
            is_met = off <= self._allowed(nearest)
            is_enclosed = self._encloses() and self._is_within(MOST_JUMP, nearest)
            return nearest if is_met or self._can_be_moved(nearest) or is_enclosed else None
        if fit is None or (len(self._all) < PASSES_WITH_NOISE and self._hints.noise is None):
            return None
        if self._can_be_moved(nearest):
            return nearest
        # The curve decides, since the noise of a single pass can exceed its distance from the target.
        if not self._is_settled(fit) and self._own_passes() < MOST_WITH_NOISE:
            return None
        best = min(self._all, key=lambda one: abs(math.log(one.strength / fit.strength)))
        if noise is None:
            # Too few rises lie near the target to show the noise. Further passes at such levels would not help.
            is_near = abs(fit.slope * math.log(best.strength / fit.strength)) <= NEAR
            return best if is_near and self._own_passes() > MOST_WITH_NOISE else None
        off = abs(fit.rise_at(best.strength) - self._target)
        reachable = max(self._allowed(best), fit.rise_sd * self._target / 2)
        return best if off <= reachable or self._own_passes() > MOST_WITH_NOISE else None

    def _can_be_moved(self, one: Observation) -> bool:
        """Whether the caller can move the figures of this pass along the curve to the target."""
        fit = self._fit()
        if not self._by_curve or fit is None:
            return False
        is_near = self._is_within(self._most_moved, one)
        is_power_law = fit.slope >= LEAST_SLOPE and self._is_usual(fit.slope) and fit.misfit <= MOST_MISFIT
        is_near = is_near and is_power_law and fit.strength <= self._reach.most
        # only further passes would average the noise away, and the interval contains it
        allowed = max(self._allowed(one, COMPARED_DOUBT), LEFT_NOISE * (self._noise() or 0.0))
        return is_near and fit.rise_sd * self._target <= allowed

    def _is_within(self, distance: float, one: Observation) -> bool:
        """Whether the pass is at most this distance in `log(log(ppl_ratio))` from the target."""
        return one.mean_rise > 0 and abs(math.log(one.mean_rise / self._target)) <= distance

    def _encloses(self) -> bool:
        """Whether the levels on both sides of the target are so near that any level between them will do.

        This ends a comparison at a jump, where no curve leads to the target. In half precision noise may move a pass to
        the other side, and the search needs further passes to see that.
        """
        fit, gap = self._fit(), self._gap()
        if not self._by_curve or self._noisy or fit is None or gap == 0:
            return False
        return gap * fit.slope * self._target <= self._allowed(self._nearest(), COMPARED_DOUBT)

    def _is_enclosed(self) -> bool:
        """Whether passes over the whole corpus on both sides of the target are near enough to be moved there.

        A slope between them that is far from what is known shows a jump, over which no pass is moved.
        """
        if not self._by_curve:
            return False
        near = [one for one in self._all if self._is_within(self._most_moved, one)]
        points = sorted((one.strength, one.mean_rise) for one in near)
        for (below, low), (above, high) in itertools.pairwise(points):
            if low < self._target <= high:
                return self._is_usual(math.log(high / low) / math.log(above / below))
        return False

    def _is_usual(self, slope: float) -> bool:
        """Whether a slope agrees with what is known. A steeper one is that of a jump or of the edge of a cliff."""
        known = self._hints.slope
        return abs(math.log(slope / known.median)) <= MOST_UNUSUAL * known.log_sd

    def _gap(self) -> float:
        """Distance in log(strength) between the levels on both sides of the target; 0 if they are not both known."""
        below, above = self._bracket()
        return math.log(above / below) if below and above else 0.0

    def _strength_at_target(self, fit: RiseFit) -> float:
        """Where the curve meets the target, which is between two passes if they enclose the target."""
        below, above = self._bracket()
        if not self._by_curve or self._noisy or below is None or above is None:
            return fit.strength
        return min(max(fit.strength, below), above)

    def _informative_on_part(self) -> float | None:
        """The strength of the target if a pass over the part there may show how the curve leads to it; otherwise None.

        Such a pass shows the slope, and costs less than a further pass over the whole corpus.
        """
        fit = self._fit()
        if not self._by_curve or self._windows is None or fit is None or not self._all:
            return None
        if len(self._windows) < 2 or self._is_enclosed():
            return None  # the windows do not show the error of such a pass, or the curve does not rest on it
        if self._noisy and (self._hints.noise is None or len(self._all) > 1):
            return None  # then further passes over the whole corpus are needed, and the curve rests on them alone
        nearest = self._nearest()
        distance = abs(math.log(nearest.mean_rise / self._target)) if nearest.mean_rise > 0 else math.inf
        strength = min(fit.strength, self._reach.most)
        is_new = self._nearest_known(strength, [*self._part, *self._all]) > _ANOTHER_LEVEL
        return strength if distance <= self._most_moved and is_new else None

    @staticmethod
    def _nearest_known(strength: float, passes: Sequence[Observation]) -> float:
        """Distance in log(strength) to the nearest of these passes; infinite if there are none."""
        strengths = [one.strength for one in passes if one.strength > 0]
        return min((abs(math.log(known / strength)) for known in strengths), default=math.inf)

    def _own_passes(self) -> int:
        """Passes over the whole corpus that this search has run. Known passes may all be far from its target."""
        return sum(one.on_all for one in self._tries)

    def _is_settled(self, fit: RiseFit) -> bool:
        """Whether the standard error of the curve at the target is within the accepted error."""
        if len(self._all) < PASSES_WITH_NOISE and self._hints.noise is None:
            return False
        return fit.rise_sd * self._target <= self._allowed(self._nearest())

    def _allowed(self, one: Observation, doubt: float = DOUBT) -> float:
        """Accepted error of the rise, nats: the tolerance or a share of the sampling error, whichever is larger."""
        # of a rise near 0 the relative error is large, and says nothing about the target
        sampling = relative_sampling_sd(one.rise, one.labels) * min(self._target, abs(one.mean_rise))
        return max(math.log1p(self._tolerance / math.exp(self._target)), doubt * sampling)

    def _next(self, latest: Observation, below: float | None, above: float | None, ran: int) -> float:
        """The next strength to try on all windows."""
        fit = self._fit()
        if self._noisy and fit is not None:
            settled = self._is_settled(fit) or self._own_passes() >= MOST_WITH_NOISE
            proposal = fit.strength if settled else self._most_informative(fit)
            tried = [one.strength for one in self._all]
            return min(max(proposal, min(tried) / MOST_UP), max(tried) * MOST_UP, self._reach.most)
        if fit is None:
            return min(latest.strength * 2, self._reach.most)
        proposal = min(max(fit.strength, latest.strength * MOST_DOWN), latest.strength * MOST_UP)
        if below is None or above is None:
            if not (below or 0.0) < proposal < (above or math.inf) or self._is_refuted(proposal):
                proposal = self._by_power_law(latest)  # passes over the part lead away from the target
            return min(proposal, self._reach.most)
        # bisect if the curve leads out of the bracket, and every fourth time, since the rise may follow no power law
        if not below < proposal < above or ran % 4 == 0 or self._is_refuted(proposal):
            return math.sqrt(max(below, above * _BISECTION_FLOOR) * above)
        return proposal

    def _is_refuted(self, proposal: float) -> bool:
        """Whether a pass over the whole corpus at nearly this level has shown that it does not meet the target.

        The curve of a comparison follows such a pass little, since its other passes count with their sampling errors.
        """
        if not self._by_curve:
            return False
        near = [one for one in self._all if self._nearest_known(proposal, [one]) <= _ANOTHER_LEVEL]
        return any(not self._is_within(3 * _ANOTHER_LEVEL, one) for one in near)

    def _by_power_law(self, latest: Observation) -> float:
        """Where a power law through this pass alone meets the target."""
        if latest.mean_rise <= 0:
            return latest.strength * MOST_UP
        step = (self._target / latest.mean_rise) ** (1 / self._hints.slope.median)
        return latest.strength * min(max(step, MOST_DOWN), MOST_UP)

    def _most_informative(self, fit: RiseFit) -> float:
        """The candidate strength whose pass would reduce the standard error of the curve at the target most.

        The candidates lie at the target, where the error of the slope does not matter, and above the target, where
        the rise is larger than the noise. Strengths that have been tried are left out: repeating a pass repeats its
        rounding errors.
        """
        noise = self._noise() or 0.0
        known = self._fittable()

        def error_after(strength: float) -> float:
            rise = fit.rise_at(strength)
            imagined = dataclasses.replace(
                self._all[-1], strength=strength, rise=self._all[-1].labels * rise, on_all=True
            )
            refit = fit_rise([*known, imagined], self._target, noise, slope=self._hints.slope)
            return refit.rise_sd if refit else math.inf

        # distances above the target in `log(log(ppl_ratio))`; the far ones pay only if there is noise to exceed
        distances = (0.0, 0.06, 0.25, 0.5, 0.8) if noise else (0.0, 0.06, 0.25)
        candidates = [fit.strength * math.exp(distance / fit.slope) for distance in distances]
        tried = [one.strength for one in self._all]
        fresh = [s for s in candidates if min(abs(math.log(s / t)) for t in tried) > _SAME_STRENGTH]
        return min(fresh or [fit.strength * math.exp(3 * _SAME_STRENGTH)], key=error_after)

    def _on_all(self, strength: float) -> Observation:
        return self._observe(strength, on_all=True)

    def _observe(self, strength: float, *, on_all: bool) -> Observation:
        level = self._level(strength)
        return self._note(self._evened(self._run(level, on_all), level, strength))

    def _note(self, one: Observation) -> Observation:
        self._tries.append(one)
        (self._all if one.on_all else self._part).append(one)
        self._fits.clear()
        return one

    def _fit(self) -> RiseFit | None:
        if not self._fits:
            self._fits.append(self._new_fit())
        return self._fits[0]

    def _new_fit(self) -> RiseFit | None:
        known = self._fittable()
        # the first fit assumes a noise for half precision, because the estimate of the noise needs a curve
        guess = self._hints.noise or NOISE_GUESS * self._target
        sampling_sd = self._sampling()
        fit = functools.partial(
            fit_rise, known, self._target, sampling_sd=sampling_sd, slope=self._hints.slope
        )
        first = fit(guess if self._noisy else 0.0)
        noise = arithmetic_noise(self._all, first) if self._noisy else None
        return fit(noise) if noise else first

    def _sampling(self) -> Callable[[Observation], float] | None:
        """The sampling errors of the passes of a comparison, against the nearest pass over the whole corpus.

        Two levels drop other neurons of each token, so also passes over the whole corpus lie on no smooth curve."""
        rising = [one for one in self._all if one.mean_rise > 0 and len(one.rise) > 1]
        if not self._by_curve or not rising:
            return None  # a single window shows no sampling error
        # a rise near 0 has a large relative error, however near to the target it is
        reference = min(rising, key=lambda one: abs(math.log(one.mean_rise / self._target)))
        return SamplingAgainst(reference=reference, windows=self._windows)

    def _fit_with_sampling(self, reference: Observation, noise: float) -> RiseFit | None:
        """The curve of texts of this kind, for the slope; None for a single window, which shows no sampling error."""
        if len(reference.rise) < 2:
            return None
        sampling_sd = SamplingAgainst(reference=reference, windows=self._windows)
        slope = self._hints.slope
        return fit_rise(self._fittable(), self._target, noise, sampling_sd=sampling_sd, slope=slope)

    def _fittable(self) -> list[Observation]:
        """The passes to fit: all passes over the whole corpus, and the passes over the part, rescaled.

        Where the scale of the part would only disturb, the passes over the whole corpus replace those over the part: in
        half precision if there are two, and otherwise if two enclose the target so nearly that both could be moved.
        """
        if (self._noisy and len(self._all) >= 2) or self._is_enclosed():
            return list(self._all)
        # a part that a pass contains, at another level, says nothing new
        contained = {one.stages[0].level for one in self._all if one.stages}
        own = [one for one in self._part if one.level not in contained]
        return [*scaled_part(own, self._all, self._windows, self._hints.part_factor), *self._all]

    def _noise(self) -> float | None:
        """Standard deviation of the arithmetic noise of the mean rise, nats; None if it is negligible or not known."""
        return (arithmetic_noise(self._all, self._fit()) or self._hints.noise) if self._noisy else None

    def _is_near(self, observations: Sequence[Observation]) -> bool:
        """Whether known passes make the bracketing on the part unnecessary."""
        rises = [one.mean_rise / self._target for one in observations]
        return any(rise > 0 and abs(math.log(rise)) <= NEAR_ENOUGH for rise in rises) and len(rises) > 1

    def _bracket(self) -> tuple[float | None, float | None]:
        """The strengths next below and next above the target, among the passes over the whole corpus."""
        return _bracket([(one.strength, one.mean_rise) for one in self._all], self._target)

    def _same_level(self, below: float, above: float) -> bool:
        """Whether two strengths drop practically the same neurons."""
        return abs(self._level(above) - self._level(below)) <= self._reach.step

    def _nearest(self) -> Observation:
        """The pass over the whole corpus that is nearest to the target; the sparsest among equally near passes."""
        return min(self._all, key=lambda one: (abs(one.mean_rise - self._target), -one.strength))

    def _is_monotone(self, noise: float) -> bool:
        """Whether perplexity rose with strength. Falls within the noise or a tenth of the rise are ignored."""
        for scope in (self._part, self._all):
            ordered = sorted((one.strength, one.ppl_ratio) for one in scope)
            for (_, before), (_, after) in itertools.pairwise(ordered):
                if after < before - max(TOLERANCE, 0.1 * abs(before - 1), _RIPPLE * math.sqrt(2) * noise):
                    return False
        return True

    def _check_reached(self) -> None:
        """Raises TargetError if the sparsest level does not reach the target on the whole corpus."""
        tries = [one for one in self._tries if one.on_all]
        if not tries:
            return
        last = tries[-1]
        if last.strength >= self._reach.most and last.mean_rise < self._target:
            level = self._level(last.strength)
            raise TargetError(
                f"no level of {self._rule.label} reaches ppl_ratio {math.exp(self._target):.4f}: the sparsest level"
                f" ({self._rule.level_name} = {level:.4g}) has ppl_ratio {last.ppl_ratio:.4f};"
                f" {_way_out(last.ppl_ratio)}"
            )


def _way_out(reached: float) -> str:
    """What to do when a rule reaches only this perplexity ratio."""
    percent = math.floor(1e4 * (reached - 1)) / 100
    if percent < 0.01:
        return (
            "without these neurons the model predicts the text as well, so no --ppl can be reached: give another text,"
            " or more of it"
        )
    return f"ask for --ppl {percent:g} or less"


def _bracket(points: Sequence[tuple[float, float]], target: float) -> tuple[float | None, float | None]:
    above = min((x for x, y in points if y >= target), default=None)
    below = max((x for x, y in points if y < target and (above is None or x < above)), default=None)
    return below, above


def _meet(
    f: Callable[[float], float],
    target: float,
    reach: Reach,
    is_near: Callable[[float], bool],
    same_level: Callable[[float, float], bool],
    slope: float,
    *,
    most_tries: int,
) -> float:
    """Find a strength at which the increasing function `f` is near the target: bracketed secants on logarithms."""
    points: list[tuple[float, float]] = []
    s = min(reach.start, reach.most)
    while len(points) < most_tries:
        points.append((s, f(s)))
        below, above = _bracket(points, target)
        if is_near(points[-1][1]) or below == reach.most:
            return s
        if below is not None and above is not None and same_level(below, above):
            break  # f jumps over the target: no level lies between
        s = _secant(points, below, above, target, _slope(points, target) or slope, reach.most)
    return min(points, key=lambda point: (abs(point[1] - target), -point[0]))[0]


def _secant(
    points: list[tuple[float, float]],
    below: float | None,
    above: float | None,
    target: float,
    slope: float,
    most: float,
) -> float:
    """The next strength to try: the power law through the nearer end of the bracket, limited to the bracket."""
    ends = [point for point in points if point[0] in (below, above)]
    nearest, value = min(ends, key=lambda point: abs(point[1] - target))
    factor = (target / value) ** (1 / slope) if value > 0 else 2.0
    step = nearest * min(max(factor, MOST_DOWN), MOST_UP)
    if below is None or above is None:
        return min(most, step)
    if not below < step < above or len(points) % 4 == 0:
        return math.sqrt(max(below, above * _BISECTION_FLOOR) * above)
    return step


def _slope(points: list[tuple[float, float]], target: float) -> float | None:
    """d log f / d log s between the point nearest to the target and the next nearest at a clearly different `s`."""
    rising = sorted((p for p in points if min(p) > 0), key=lambda p: abs(math.log(p[1] / target)))
    for s, f in rising[1:]:
        run, rise = math.log(s / rising[0][0]), math.log(f / rising[0][1])
        if abs(run) > 0.005:
            return min(max(rise / run, 0.5), 10.0)
    return None
