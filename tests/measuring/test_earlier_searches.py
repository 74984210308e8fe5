"""What finished searches teach the next one: where it begins, how the part differs, and the noise."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from sparsing.demo import checkpoints, heldout_text
from sparsing.measuring.earlier_searches import EarlierSearches
from sparsing.measuring.even_strengths import EvenStrengths
from sparsing.measuring.expected_rise import RULE_SD
from sparsing.measuring.hints import UNKNOWN_START_SD, Hints
from sparsing.measuring.observation import Observation
from sparsing.measuring.search_result import SearchResult
from sparsing.measuring.subject import Subject
from sparsing.models.loading import load_model
from sparsing.rules import make_rule
from sparsing.text.corpus import load_corpus

from ..helpers.measuring import source_text, trained
from ..helpers.tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def subject():
    corpus = load_corpus([source_text()[:12_000]], tiny_tokenizer(), window=48)
    return Subject(trained(), corpus, scores=("neuron_norm", "h", "gate", "x"))


def hints_of(earlier: EarlierSearches, rule, ppl_ratio: float) -> Hints:
    return earlier.start(rule, ppl_ratio)[1]


def found(level: float, ppl_ratio: float = 1.01, **options) -> SearchResult:
    rest = {"target_ppl_ratio": 1.01, "converged": True, "monotone": True, "slope": 2.0, "tries": ()}
    return SearchResult(level=level, ppl_ratio=ppl_ratio, **(rest | options))


def test_a_search_begins_where_the_target_is_expected(subject):
    earlier = EarlierSearches(subject.curves, subject.part)
    earlier.add(make_rule("cett"), found(0.13), [])
    for name in ("quantile:neuron_norm", "top_k:neuron_norm", "fat:neuron_norm", "cett:gate", "quantile:x"):
        rule = make_rule(name)
        reach, hints = earlier.start(rule, 1.01)
        usual = rule.reach(subject.curves)
        assert (reach.most, reach.step) == (usual.most, usual.step)
        expected, sd = earlier._expected.at(rule, rule.level(reach.start), 1.01)
        # `top_k` keeps a whole number of 96 neurons
        assert expected == pytest.approx(math.log(math.log(1.01)), abs=0.2)
        assert hints.start_sd == sd


def test_a_search_steps_along_the_errors_of_the_sites_that_hurt(subject):
    earlier, rule = EarlierSearches(subject.curves, subject.part), make_rule("quantile:gate")
    for name, level in (("cett:gate", 0.13), ("fat", 0.4), ("fat:h", 0.2)):
        earlier.add(make_rule(name), found(level), [])
    reach, hints = earlier.start(rule, 1.01)
    weights = earlier.weights(rule)
    assert weights.max() > 1.05 * weights.min()
    by_weight, equal = (
        EvenStrengths.of(rule, reach.start, reach.most, subject.curves, own) for own in (weights, None)
    )
    strength = 3 * reach.start
    assert hints.even.even(strength) == by_weight.even(strength) != equal.even(strength)


def test_an_equal_error_of_other_values_costs_about_as_much(subject):
    """On SmolLM2 the error of `h` at PPL-1% is 2.5 times that of the gate."""
    earlier = EarlierSearches(subject.curves, subject.part)
    earlier.add(make_rule("cett:gate"), found(0.13), [])
    reach, hints = earlier.start(make_rule("cett:h"), 1.01)
    assert reach.start == pytest.approx(0.13, rel=0.2)
    earlier.add(make_rule("cett:h"), found(0.2), [])
    second, later = earlier.start(make_rule("cett"), 1.01)
    assert 0.17 < second.start < 0.21
    assert later.start_sd < 0.7 * hints.start_sd


def passed(subject, shares: np.ndarray) -> Observation:
    """A pass whose rise in the windows of the part is that of `shares`, and 2 in the others."""
    rise = np.full(subject.corpus.n_windows, 2.0)
    rise[subject.part] = shares
    return Observation(strength=0.1, rise=rise, labels=np.full(len(rise), 47.0), on_all=True)


def test_factor_of_the_part_and_noise(subject):
    earlier, cett = EarlierSearches(subject.curves, subject.part), make_rule("cett")
    assert hints_of(earlier, cett, 1.01).part_factor == 1.0
    assert hints_of(earlier, cett, 1.01).noise is None
    one = passed(subject, np.ones(len(subject.part)))
    hints = []
    for _ in range(12):
        earlier.add(cett, found(0.13, ppl_ratio_noise=5e-4 * 1.01), [one])
        hints.append(hints_of(earlier, cett, 1.01))
    assert hints[0].noise == pytest.approx(5e-4)
    factors, errors = [one.part_factor for one in hints], [one.part_sd for one in hints]
    assert factors == sorted(factors)
    assert errors == sorted(errors, reverse=True)
    assert 1.3 < factors[0] < factors[-1] < one.rise.mean()
    assert factors[-1] == pytest.approx(one.rise.mean(), rel=0.03), "rules that agree are believed"


def test_factors_that_disagree_say_nothing_about_the_next_rule(subject):
    """On SmolLM2 each rule hurts other windows: the part loses a third of one rule's rise, and all of another's."""
    earlier, cett = EarlierSearches(subject.curves, subject.part), make_rule("cett")
    for share in (1.0, 4.0, 1.0, 4.0):
        earlier.add(cett, found(0.13), [passed(subject, np.full(len(subject.part), share))])
    assert hints_of(earlier, cett, 1.01).part_factor == pytest.approx(1.0, rel=0.12)


def test_a_part_whose_windows_scatter_teaches_a_factor_near_one(subject):
    """On the SiLU demo model a factor of 7 was learned, and TEAL then began with a seventh of its rise."""
    one = passed(subject, 0.3 + 10 * np.sin(np.arange(len(subject.part))))
    part = one.on_windows(subject.part)
    assert part.mean_rise > 0
    earlier = EarlierSearches(subject.curves, subject.part)
    earlier.add(make_rule("cett"), found(0.13), [one])
    assert one.mean_rise / part.mean_rise > 2.5
    assert 1.0 < hints_of(earlier, make_rule("cett"), 1.01).part_factor < 1.25


def test_no_factor_is_learned_from_a_part_of_one_window(subject):
    """Its scatter is not known. A part of one window is usual for texts of few long windows."""
    n = subject.corpus.n_windows
    rise = np.full(n, 2.0)
    rise[0] = 0.2
    one = Observation(strength=0.1, rise=rise, labels=np.full(n, 47.0), on_all=True)
    for part, is_learned in ((np.array([0]), False), (np.array([0, 1]), True)):
        earlier = EarlierSearches(subject.curves, part)
        earlier.add(make_rule("cett"), found(0.13), [one])
        assert (hints_of(earlier, make_rule("cett"), 1.01).part_factor != 1.0) is is_learned


def test_a_joint_rule_begins_below_the_level_of_cett_and_is_hardly_known_there(subject):
    """It limits the errors of the attention inputs too, and perplexity rises more at the same level."""
    earlier, joint = EarlierSearches(subject.curves, subject.part), make_rule("cett:neuron_norm+x")
    earlier.add(make_rule("cett"), found(0.13), [])
    reach, hints = earlier.start(joint, 1.01)
    assert 0.05 < reach.start < 0.12
    assert hints.start_sd > 0.6


def test_a_comparison_runs_fewer_passes_than_separate_searches(subject):
    """About one pass over all tokens per rule, and its figures agree with separate searches."""
    rules = [
        make_rule(name) for name in ("cett", "quantile:neuron_norm", "fat:neuron_norm", "cett:h", "cett:gate")
    ]
    alone = Subject(subject.loaded, subject.corpus, scores=("neuron_norm", "h", "gate"))
    for rule in rules:
        shared, single = subject.search(rule, 1.02, compared=True), alone.search(rule, 1.02)
        assert shared.converged
        thresholds = subject.thresholds(rule, shared.level)
        ratio = subject.ratios_at_target(rule, shared, thresholds).mean()
        low, high = alone.ratio_interval(rule, single, alone.thresholds(rule, single.level))
        assert low <= ratio <= high
    count = {
        one: sum(tried.on_all for rule in rules for tried in one.passes_of(rule)) for one in (subject, alone)
    }
    assert count[subject] <= len(rules) + 2
    assert count[subject] < count[alone]


def test_a_search_on_a_short_text_does_not_stall():
    """Each pass was 0.5% away from the last one, since a pass that missed hardly changed the curve: 40 passes."""
    loaded = load_model(checkpoints("relu")[-1], dtype="float32", device="cpu")
    corpus = load_corpus([heldout_text()[20_000:50_000]], loaded.tokenizer, window=256, max_tokens=1000)
    rules = [make_rule(name) for name in ("cett", "cett:gate", "top_k", "fat", "quantile:x")]
    subject = Subject(loaded, corpus, scores=sorted({rule.score for rule in rules}))
    tries = [
        len(subject.search(rule, ppl_ratio, compared=True).tries)
        for rule in rules
        for ppl_ratio in (1.01, 1.05, 1.1)
    ]
    assert max(tries) <= 12
    assert sum(tries) <= 4 * len(tries)


def test_a_rule_without_an_error_begins_at_the_highest_ratio_found(subject):
    """A value with a sign has no curve. Such a rule is seldom sparser, so the search comes from the dense side."""
    earlier, curves = EarlierSearches(subject.curves, subject.part), subject.curves
    rule = make_rule("gaussian_top_k")
    assert earlier.start(rule, 1.01)[0] == rule.reach(curves)
    ratios = []
    for name, level in (("quantile", 0.8), ("quantile:neuron_norm", 0.6)):
        earlier.add(make_rule(name), found(level), [])
        ratios.append(make_rule(name).expected_ratio(level, curves))
    reach, hints = earlier.start(rule, 1.01)
    assert rule.expected_ratio(rule.level(reach.start), curves) == pytest.approx(max(ratios), rel=0.05)
    assert max(ratios) > 1.5 * min(ratios)
    assert hints.start_sd == UNKNOWN_START_SD
    assert earlier.start(rule, 1.05)[0] == rule.reach(curves), "the searches were for another target"


def test_a_rule_that_chooses_from_the_prompt_learns_no_level_from_others(subject):
    """GRIFFIN began at the ratio of rules per token, at which its perplexity rose by 80 to 190 times the target."""
    earlier, griffin = EarlierSearches(subject.curves, subject.part), make_rule("griffin")
    earlier.add(make_rule("quantile"), found(0.8), [])
    reach, hints = earlier.start(griffin, 1.01)
    assert hints.start_sd == UNKNOWN_START_SD
    assert reach == griffin.reach(subject.curves)
    assert griffin.level(reach.start) > 0.9


def test_the_more_alike_an_earlier_rule_is_the_more_its_level_says(subject):
    earlier = EarlierSearches(subject.curves, subject.part)
    unknown = hints_of(earlier, make_rule("cett"), 1.01).start_sd
    earlier.add(make_rule("quantile:gate"), found(0.8), [])
    errors = [
        hints_of(earlier, make_rule(name), 1.01).start_sd
        for name in ("cats", "quantile", "top_k:h", "quantile:x")
    ]
    assert errors == sorted(errors)
    assert RULE_SD < errors[0] < 0.4 < errors[2]
    assert errors[3] < unknown
    assert errors[0] < hints_of(earlier, make_rule("cats"), 1.05).start_sd < unknown, "for another target"


def test_the_shape_of_the_curve_comes_from_the_calibrated_error(subject):
    earlier = EarlierSearches(subject.curves, subject.part)

    def hints(name):
        return hints_of(earlier, make_rule(name), 1.01)

    threshold, other, unknown = (
        hints(name) for name in ("quantile:neuron_norm", "top_k:neuron_norm", "griffin")
    )
    assert threshold.even is not None
    assert other.even is not None
    assert unknown.even is None
    assert threshold.slope.median == other.slope.median == 2.0
    assert unknown.slope.median == make_rule("griffin").usual_exponent
    assert threshold.slope.log_sd < other.slope.log_sd < unknown.slope.log_sd


def test_the_exponent_is_learned_from_searches_of_several_passes(subject):
    """On stories260K the rise grows like the third power of the error's root, for nearly every rule."""
    earlier = EarlierSearches(subject.curves, None)
    one, two = (
        Observation(strength=s, rise=np.full(4, s), labels=np.full(4, 47.0), on_all=True) for s in (0.1, 0.2)
    )
    rule, result = make_rule("cett"), found(0.13, slope=6.0, stretch=2.0)
    earlier.add(rule, result, [one])
    assert hints_of(earlier, rule, 1.01).slope.median == pytest.approx(2.0), "a single pass shows no exponent"
    earlier.add(rule, result, [one, two])
    assert hints_of(earlier, rule, 1.01).slope.median == pytest.approx(math.sqrt(2.0 * 3.0))


def test_a_slope_is_wanted_until_enough_searches_have_shown_one(subject):
    earlier, rule = EarlierSearches(subject.curves, None), make_rule("cett")
    on_all = Observation(strength=0.1, rise=np.full(4, 0.1), labels=np.full(4, 47.0), on_all=True)
    on_part = Observation(strength=0.2, rise=np.full(2, 0.1), labels=np.full(2, 47.0), on_all=False)
    measured = found(0.13, slope=6.0, stretch=2.0, slope_sd=0.3)
    rough = found(0.13, slope=6.0, stretch=2.0, slope_sd=1.2)
    for _ in range(4):
        assert hints_of(earlier, rule, 1.01).wants_slope
        earlier.add(rule, rough, [on_part, on_all])
        assert hints_of(earlier, rule, 1.01).slope.median < 3, "the prior, not what the passes show"
        earlier.add(rule, measured, [on_part, on_all])
    assert not hints_of(earlier, rule, 1.01).wants_slope
    assert not hints_of(earlier, make_rule("griffin"), 1.01).wants_slope, (
        "the slope of this rule does not show the slopes of others"
    )


def test_a_pass_over_the_part_is_weighed_against_what_is_known():
    labels = np.full(16, 100.0)
    uneven = np.random.default_rng(0).standard_normal(16)
    uneven -= uneven.mean()

    def first(rise: float, scatter: float = 0.0) -> Observation:
        """Windows that scatter by `scatter` targets."""
        rises = 100 * (rise + 0.01 * scatter * uneven)
        return Observation(strength=0.1, rise=rises, labels=labels, on_all=False)

    def distance(one: Observation, start_sd: float = 0.2, **options) -> float:
        options = {"part_factor": 1.0, "part_sd": 0.2} | options
        return Hints(**options).distance_after(one, 0.01, start_sd)[0]

    assert distance(first(0.01)) == pytest.approx(0, abs=0.02)
    # two about equally precise estimates, 1 and 0.8
    assert distance(first(0.008)) == pytest.approx(math.log(0.8) / 2, abs=0.04)
    assert distance(first(0.008), 1.0) == pytest.approx(math.log(0.8), abs=0.06)
    assert distance(first(0.008, 4.0)) > distance(first(0.008)) / 2, "windows that scatter say less"
    assert distance(first(0.008), part_factor=1.25) == pytest.approx(0, abs=0.02)
    assert distance(first(0.001)) < -1.2, "the search begins far from the target, whatever was expected"
    assert distance(first(0.1)) > 1.5
    assert distance(first(-0.001, 3.0)) > -0.5, "nothing rose, but the windows scatter"
    assert distance(first(0.0)) < -0.5
    # the scatter of a single window is not known, so it says less about the whole corpus than equal windows do
    equal = first(0.03)
    single = dataclasses.replace(equal, rise=equal.rise[:1], labels=labels[:1])
    assert 0 < distance(single) < distance(equal)
    for far in (-100.0, -1.0, 50.0, 1e5):
        assert abs(distance(first(far))) > 4, "no likelihood vanishes, however far the pass is"
    sds = [Hints(part_sd=0.2).distance_after(first(0.01, scatter), 0.01, 0.5)[1] for scatter in (0.0, 2.0)]
    assert 0.15 < sds[0] < sds[1] < 0.55
