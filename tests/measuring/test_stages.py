"""Passes whose stages run at levels of their own, on rises that are known exactly."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsing.measuring.even_strengths import SAME_STRENGTHS
from sparsing.measuring.hints import Hints
from sparsing.measuring.observation import Observation
from sparsing.measuring.rise_curve import SlopePrior, arithmetic_noise, fit_rise
from sparsing.measuring.search import search
from sparsing.measuring.search_result import SearchResult
from sparsing.measuring.stages import Stages, agree, joined_stages, part_windows, stage_windows
from sparsing.rules import Reach, make_rule

CETT = make_rule("cett")
REACH = Reach(start=1.0, most=3.0, step=1e-7)
N, TARGET = 64, 0.01
STAGES = stage_windows(N, part_windows(N, 256))
HINTS = Hints(even=SAME_STRENGTHS, slope=SlopePrior(log_sd=0.2), start_sd=0.6)


@given(n_windows=st.integers(1, 300), window=st.sampled_from([32, 256, 1024, 4096]))
def test_stages_share_the_windows_and_grow(n_windows, window):
    part = part_windows(n_windows, window)
    stages = stage_windows(n_windows, part)
    if part is None:
        assert stages == ()
        return
    assert sorted(np.concatenate(stages)) == list(range(n_windows))
    assert (stages[0] == part).all()
    done = np.cumsum([len(own) for own in stages])
    assert all(len(own) == before for own, before in zip(stages[1:-1], done, strict=False))
    assert len(stages[-1]) >= n_windows // 2, "a change of level in the last stage would come late"
    for own in stages[:-1]:
        assert np.diff(own).max(initial=0) <= 2.5 * n_windows / len(own), "spread over the corpus"


def stage(number: int, strength: float, slope: float = 2.0, shares: np.ndarray | None = None) -> Observation:
    """A stage on the curve `TARGET * strength ** slope`, times the shares of its windows."""
    own = STAGES[number]
    labels = np.full(len(own), 250.0)
    share = np.ones(len(own)) if shares is None else shares[own]
    rise = labels * TARGET * strength**slope * share
    return Observation(strength=strength, rise=rise, labels=labels, on_all=False, level=strength)


def test_a_wrong_slope_moves_a_joined_pass_little():
    strengths = (0.7, 0.9, 1.1, 1.05)
    ran = [stage(number, strength, 3.0) for number, strength in enumerate(strengths)]
    one = joined_stages(ran, STAGES, 2.0, 0.2)
    shares = np.array([len(own) for own in STAGES]) / N
    assert math.log(one.strength) == pytest.approx(shares @ np.log(strengths))
    true = TARGET * one.strength**3
    assert one.mean_rise == pytest.approx(true, rel=0.02)
    last = (
        sum(len(own) * s.mean_rise * (1.05 / s.strength) ** 2 for own, s in zip(STAGES, ran, strict=True)) / N
    )
    wrong = abs(one.mean_rise / true - 1)
    assert abs(last / (TARGET * 1.05**3) - 1) > 2 * wrong, (
        "at the level of the last stage the slope would matter"
    )
    assert abs(one.mean_rise - true) < 2 * one.moved_sd < 0.1 * true
    assert [own.level for own in one.stages] == list(strengths)
    for own, each, of in zip(STAGES, ran, one.stages, strict=True):
        np.testing.assert_allclose(one.rise[own], each.rise * of.rise_factor)


def test_stages_at_one_level_make_the_pass_at_that_level():
    ran = [stage(number, 0.9) for number in range(len(STAGES))]
    one = joined_stages(ran, STAGES, 1.0, 0.5)
    assert one.strength == pytest.approx(0.9)
    assert one.mean_rise == pytest.approx(TARGET * 0.9**2)
    assert one.moved_sd == pytest.approx(0, abs=1e-12)


def test_the_error_of_moved_stages_is_part_of_the_error_of_the_curve():
    exact = dataclasses.replace(
        joined_stages([stage(n, 1.0) for n in range(4)], STAGES, 2.0, 0.2), moved_sd=0.0
    )
    rough = dataclasses.replace(exact, moved_sd=0.2 * TARGET)
    of_exact, of_rough = (fit_rise([one], TARGET, 0.0) for one in (exact, rough))
    assert of_exact.rise_sd < 0.01
    assert of_rough.rise_sd == pytest.approx(0.2, rel=0.05)


def test_a_pass_whose_error_is_large_is_not_accepted_because_it_meets_the_target():
    labels, scatter = np.full(N, 250.0), np.exp(0.5 * np.random.default_rng(0).standard_normal(N))

    def passed(strength: float, on_all: bool) -> Observation:
        rise = labels * TARGET * strength**2 * scatter / scatter.mean()
        return Observation(strength=strength, rise=rise, labels=labels, on_all=on_all)

    def tries(moved_sd: float) -> int:
        known = [dataclasses.replace(passed(1.0, True), moved_sd=moved_sd)]
        found = search(CETT, passed, ppl_ratio=math.exp(TARGET), reach=REACH, known=known, by_curve=True)
        assert found.converged
        return len(found.tries)

    assert tries(0.0) == 0
    assert tries(0.3 * TARGET) > 0


def test_a_larger_part_has_the_error_of_the_windows_that_are_left():
    """Windows outside of the part that rise three times as much."""
    rises = np.ones(N)
    rises[np.setdiff1d(np.arange(N), STAGES[0])] = 3.0
    hints = Hints(part_factor=rises.mean() / rises[STAGES[0]].mean(), part_sd=0.4)
    part_share = len(STAGES[0]) / N
    for count in range(1, len(STAGES) + 1):
        some = np.concatenate(STAGES[:count])
        larger = hints.with_more_windows(part_share, len(some) / N)
        assert larger.part_factor == pytest.approx(rises.mean() / rises[some].mean())
        assert (larger.part_sd == pytest.approx(0.4)) == (count == 1)
    assert larger.part_sd == 0
    assert Hints(part_factor=0.01).with_more_windows(part_share, 0.25).part_factor > 0


def test_stages_that_jump_disagree():
    def joined(jump: float, seed: int, count: int = N) -> bool:
        """Whether stages agree of which the first and the third have another rise."""
        stages = stage_windows(count, np.arange(0, count, 8))
        shares = np.exp(0.5 * np.random.default_rng(seed).standard_normal(count))
        ran = []
        for own, strength, factor in zip(stages, (0.6, 0.9, 1.0, 1.1), (1.0, jump, 1.0, jump), strict=False):
            labels = np.full(len(own), 250.0)
            rise = labels * TARGET * strength**2 * shares[own] * factor
            ran.append(Observation(strength=strength, rise=rise, labels=labels, on_all=False, level=strength))
        return agree(joined_stages(ran, stages, 2.0, 0.2), stages)

    assert np.mean([joined(1.0, seed) for seed in range(60)]) >= 0.9
    assert np.mean([joined(4.0, seed) for seed in range(60)]) <= 0.05
    assert np.mean([joined(3.0, seed, 40) for seed in range(60)]) <= 0.2
    assert not any(joined(1.0, seed, 15) for seed in range(20)), "few windows do not show a jump"


def staged_search(
    seed: int,
    start: float,
    *,
    slope: float = 2.0,
    hints: Hints = HINTS,
    jump: float = 1.0,
    first: float | None = None,
) -> tuple[SearchResult, float, float, list[Observation]]:
    """A search over windows with shares of their own, which change from level to level.

    Args:
        jump: Factor of the rise from strength 1 on.
        first: Share of the first window, which is in the part.

    Returns: the result, the strength that meets the target on the whole corpus, the windows that ran as a share of the
    corpus, and the passes that were joined.
    """
    labels = np.full(N, 250.0)
    one, two = np.random.default_rng(seed).standard_normal((2, N))
    shares = np.exp(0.4 * np.random.default_rng(seed + 1000).standard_normal(N))
    shares[0] = shares[0] if first is None else first
    ran: dict[tuple[float, int], Observation] = {}
    kept: list[Observation] = []

    def rises(strength: float) -> np.ndarray:
        angle = 4.0 * math.log(strength)
        uneven = 1 + 0.3 * (math.cos(angle) * one + math.sin(angle) * two)
        return labels * TARGET * strength**slope * shares * uneven * (jump if strength >= 1 else 1.0)

    def run_stage(level: float, number: int) -> Observation:
        own = STAGES[number]
        ran[level, number] = Observation(
            strength=level, rise=rises(level)[own], labels=labels[own], on_all=False, level=level
        )
        return ran[level, number]

    def run(level: float, on_all: bool) -> Observation:
        if not on_all:
            return run_stage(level, 0)
        for number in range(len(STAGES)):
            run_stage(level, number)
        return Observation(strength=level, rise=rises(level), labels=labels, on_all=True, level=level)

    found = search(
        CETT,
        run,
        ppl_ratio=math.exp(TARGET),
        reach=dataclasses.replace(REACH, start=start),
        part=STAGES[0],
        hints=hints,
        by_curve=True,
        stages=Stages(windows=STAGES, run=run_stage, keep=kept.append),
    )
    grid = np.exp(np.linspace(-1, 1, 4001))
    means = np.array([rises(s).sum() / labels.sum() for s in grid])
    true = float(grid[np.argmin(np.abs(np.log(means / TARGET)))])
    return found, true, sum(len(STAGES[number]) for _, number in ran) / N, kept


@pytest.mark.parametrize("slope", [1.6, 2.0, 2.6])
def test_a_search_takes_about_one_pass_wherever_it_begins(slope):
    starts = (0.65, 0.8, 1.0, 1.25, 1.5)
    results = [staged_search(seed, start, slope=slope) for seed in range(12) for start in starts]
    assert all(found.converged for found, _, _, _ in results)
    assert np.mean([windows for _, _, windows, _ in results]) <= 1.15
    errors = np.array([math.log(found.fitted_strength / true) for found, true, _, _ in results])
    sds = np.array([found.level_sd for found, _, _, _ in results])
    # the windows that ran at other levels have other rises there, which is part of the sampling error
    sampling = 0.5 / slope / math.sqrt(N)
    assert np.mean(np.abs(errors) <= 2 * np.hypot(sds, sampling)) >= 0.9
    assert abs(errors.mean()) < 0.04
    joined = [found for found, _, _, kept in results if kept]
    assert len(joined) > len(results) / 2
    assert all(sum(tried.on_all for tried in found.tries) == 1 for found in joined)


def test_a_search_that_begins_at_the_target_stays_at_one_level():
    results = [staged_search(seed, 1.0, hints=dataclasses.replace(HINTS, start_sd=0.05)) for seed in range(8)]
    pure = [(found, windows) for found, _, windows, kept in results if not kept]
    assert len(pure) >= 7, "what is known of the start outweighs a few windows"
    assert all(windows == 1 for _, windows in pure)
    assert all(found.level == 1.0 for found, _ in pure)


def test_another_pass_over_the_part_shows_a_slope_that_is_wanted():
    wanted = dataclasses.replace(HINTS, wants_slope=True)
    known, shown = (staged_search(5, 0.6, slope=2.6, hints=hints)[0] for hints in (HINTS, wanted))
    assert known.slope_sd / known.slope == pytest.approx(0.2, rel=0.05), "nothing but the prior"
    assert shown.slope_sd / shown.slope < 0.15
    assert shown.slope > known.slope
    assert [tried.on_all for tried in shown.tries] == [False, False, True]


@pytest.mark.parametrize("jump", [5.0, 30.0, 300.0])
def test_a_jump_over_the_target_is_not_joined(jump):
    """Stages on both sides of a jump would make a pass at a level that has another rise."""
    for seed in range(12):
        found, _, _, kept = staged_search(seed, 0.8, jump=jump)
        for one in kept:
            sides = {stage.level >= 1 for stage in one.stages}
            assert len(sides) == 1
        if kept:
            assert found.converged
            assert not found.meets_target, "its figures are moved to the target"


def test_a_rule_whose_error_is_not_calibrated_stays_at_one_level():
    unknown = dataclasses.replace(HINTS, even=None)
    results = [staged_search(seed, 0.65, hints=unknown) for seed in range(8)]
    assert not any(kept for _, _, _, kept in results)
    assert np.mean([windows for _, _, windows, _ in results]) <= 1.6, "stages at a wrong level are left early"


def test_windows_that_rise_differently_at_another_level_are_part_of_the_error():
    shares = np.exp(0.8 * np.random.default_rng(1).standard_normal(N))

    def moved_sd(scatter: np.ndarray, *strengths: float) -> float:
        ran = [stage(number, s, shares=scatter) for number, s in enumerate(strengths)]
        one = joined_stages(ran, STAGES, 2.0, 1e-6)
        return one.moved_sd / one.mean_rise

    near, far = (0.95, 1.0, 1.0, 1.0), (0.6, 1.0, 1.0, 1.0)
    assert moved_sd(shares, *near) < 0.2 * moved_sd(shares, *far)
    even, uneven = moved_sd(np.ones(N), *far), moved_sd(shares, *far)
    spread = math.sqrt(7 / 8 * 1 / 8) * 2 * math.log(1 / 0.6)
    assert even == pytest.approx(0.08 * spread**2, rel=0.05), "the bending alone"
    assert uneven == pytest.approx(math.hypot(even, shares.std() / shares.mean() / 8 * spread), rel=0.3)


class Recording(Hints):
    """Keeps the distances that were expected before passes."""

    expected: ClassVar[list[float]] = []

    def distance_after(self, one, target, start_sd, expected=0.0):
        self.expected.append(expected)
        return super().distance_after(one, target, start_sd, expected)


def test_what_was_expected_moves_with_the_level():
    """A prior that stayed at the first level would pull every stage back to it."""
    Recording.expected.clear()
    options = {field.name: getattr(HINTS, field.name) for field in dataclasses.fields(Hints)}
    (one,) = staged_search(3, 1.4, hints=Recording(**options))[3]
    levels = [of.level for of in one.stages]
    assert levels[1] < 1.2, "the first stage shows that the level is too high"
    # after the try on the part, and after the second and the third stage
    wanted = [0.0, *(2.0 * math.log(level / 1.4) for level in levels[1:3])]
    assert Recording.expected == pytest.approx(wanted)
    sure = dataclasses.replace(HINTS, start_sd=0.1)
    assert sure.distance_after(stage(0, 1.0), TARGET, 0.1, 0.5)[0] > 0.1
    assert abs(sure.distance_after(stage(0, 1.0), TARGET, 0.1)[0]) < 0.03


def test_a_stage_that_lowers_the_loss_is_not_moved_far():
    """No factor leads from a negative rise to the rise at another level."""
    results = [staged_search(seed, 0.6, first=-14.0) for seed in range(10)]
    joined = [(found, kept[0]) for found, _, _, kept in results if kept]
    assert len(joined) >= 3
    for found, one in joined:
        assert one.rise[STAGES[0]].sum() < 0
        assert abs(2 * math.log(one.stages[0].level / found.fitted_strength)) <= 0.3


def test_a_joined_pass_shows_no_rounding_noise():
    labels = np.full(N, 250.0)
    noise = 1e-3 * TARGET * np.random.default_rng(0).standard_normal((3, N)) * math.sqrt(N)
    passes = [
        Observation(strength=s, rise=labels * (TARGET * s**2 + own), labels=labels, on_all=True)
        for s, own in zip((0.9, 1.0, 1.1), noise, strict=True)
    ]
    joined = joined_stages([stage(n, s) for n, s in enumerate((0.7, 1.3, 1.0, 1.05))], STAGES, 2.0, 0.2)
    rough = dataclasses.replace(joined, rise=joined.rise * (1 + 0.5 * np.sin(np.arange(N))))
    fit = fit_rise(passes, TARGET, 1e-5)
    assert arithmetic_noise(passes, fit) == pytest.approx(1e-3 * TARGET, rel=0.3)
    assert arithmetic_noise([*passes, rough], fit) == arithmetic_noise(passes, fit)


def test_rounding_noise_that_is_not_known_is_measured_at_one_level():
    stages_run: list[int] = []

    def ran_at_one_level(noise: float | None) -> bool:
        stages_run.clear()
        searched(noise)
        return not any(number > 0 for number in stages_run)

    def searched(noise: float | None) -> tuple[list[Observation], SearchResult]:
        kept: list[Observation] = []
        labels, shares = np.full(N, 250.0), np.exp(0.5 * np.random.default_rng(0).standard_normal(N))

        def run_stage(level: float, number: int) -> Observation:
            stages_run.append(number)
            return stage(number, level, shares=shares)

        def run(level: float, on_all: bool) -> Observation:
            if not on_all:
                return run_stage(level, 0)
            rise = labels * TARGET * level**2 * shares
            return Observation(strength=level, rise=rise, labels=labels, on_all=True, level=level)

        found = search(
            CETT,
            run,
            ppl_ratio=math.exp(TARGET),
            reach=dataclasses.replace(REACH, start=0.7),
            part=STAGES[0],
            noisy=True,
            hints=dataclasses.replace(HINTS, noise=noise),
            by_curve=True,
            stages=Stages(windows=STAGES, run=run_stage, keep=kept.append),
        )
        return kept, found

    kept, _ = searched(0.01 * TARGET)
    assert len(kept) == 1
    kept, found = searched(None)
    assert not kept
    assert len({tried.level for tried in found.tries if tried.on_all}) >= 3
    assert not any(tried.at_several_levels for tried in found.tries)
    assert ran_at_one_level(None)
    assert not ran_at_one_level(0.01 * TARGET)
