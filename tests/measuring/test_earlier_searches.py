"""What finished searches teach the next one: where it begins, how the part differs, and the noise."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from sparsing.measuring.earlier_searches import EarlierSearches
from sparsing.measuring.observation import Observation
from sparsing.measuring.search import Hints, SearchResult
from sparsing.measuring.subject import Subject
from sparsing.rules import make_rule
from sparsing.text.corpus import load_corpus

from ..helpers.measuring import source_text, trained
from ..helpers.tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def subject():
    corpus = load_corpus([source_text()[:12_000]], tiny_tokenizer(), window=48)
    return Subject(trained(), corpus, scores=("neuron_norm", "h", "gate", "x"))


def found(level: float, ppl_ratio: float = 1.01, **options) -> SearchResult:
    rest = {"target_ppl_ratio": 1.01, "converged": True, "monotone": True, "slope": 2.0, "tries": ()}
    return SearchResult(level=level, ppl_ratio=ppl_ratio, **(rest | options))


def test_a_rule_on_the_same_score_begins_at_the_same_activation_ratio(subject):
    earlier, cett = EarlierSearches(subject.curves, subject.part), make_rule("cett")
    earlier.add(cett, found(0.13), [])
    wanted = cett.expected_ratio(0.13, subject.curves)
    for name in ("quantile:neuron_norm", "top_k:neuron_norm", "fat:neuron_norm", "top_p:neuron_norm"):
        rule = make_rule(name)
        reach = earlier.reach(rule, 1.01)
        assert rule.expected_ratio(rule.level(reach.start), subject.curves) == pytest.approx(wanted, abs=0.01)
        assert dataclasses.replace(reach, start=0.0) == dataclasses.replace(
            rule.reach(subject.curves), start=0.0
        )
        assert earlier.reach(rule, 1.05) == rule.reach(subject.curves), "the search was for another target"


def test_an_error_is_the_same_for_every_score(subject):
    earlier = EarlierSearches(subject.curves, subject.part)
    earlier.add(make_rule("cett"), found(0.13), [])
    assert earlier.reach(make_rule("cett:gate"), 1.01).start == 0.13


def test_linear_inputs_learn_nothing_from_blocks(subject):
    earlier, rule = EarlierSearches(subject.curves, subject.part), make_rule("quantile:x")
    earlier.add(make_rule("cett"), found(0.13), [])
    assert earlier.reach(rule, 1.01) == rule.reach(subject.curves)


def test_factor_of_the_part_and_noise(subject):
    part, n = subject.part, subject.corpus.n_windows
    rise = np.full(n, 2.0)
    rise[part] = 1.0
    labels = np.full(n, 47.0)
    one = Observation(strength=0.1, rise=rise, labels=labels, on_all=True)
    earlier = EarlierSearches(subject.curves, part)
    assert earlier.hints(make_rule("cett"), 1.01).part_factor == 1.0
    assert earlier.hints(make_rule("cett"), 1.01).noise is None
    earlier.add(make_rule("cett"), found(0.13, ppl_ratio_noise=5e-4 * 1.01), [one])
    assert earlier.hints(make_rule("cett"), 1.01).part_factor == pytest.approx(rise.mean())
    assert earlier.hints(make_rule("cett"), 1.01).noise == pytest.approx(5e-4)


def test_a_part_whose_windows_scatter_teaches_a_factor_near_one(subject):
    """On the SiLU demo model a factor of 7 was learned, and TEAL then began with a seventh of its rise."""
    part, n = subject.part, subject.corpus.n_windows
    rise = np.full(n, 2.0)
    rise[part] = 0.3 + 10 * np.sin(np.arange(len(part)))
    one = Observation(strength=0.1, rise=rise, labels=np.full(n, 47.0), on_all=True)
    assert one.on_windows(part).mean_rise > 0
    earlier = EarlierSearches(subject.curves, part)
    earlier.add(make_rule("cett"), found(0.13), [one])
    assert rise.mean() / one.on_windows(part).mean_rise > 2.5
    assert 1.0 < earlier.hints(make_rule("cett"), 1.01).part_factor < 1.25


def test_no_factor_is_learned_from_a_part_of_one_window(subject):
    """Its scatter is not known. A part of one window is usual for texts of few long windows."""
    n = subject.corpus.n_windows
    rise = np.full(n, 2.0)
    rise[0] = 0.2
    one = Observation(strength=0.1, rise=rise, labels=np.full(n, 47.0), on_all=True)
    for part, factor in ((np.array([0]), 1.0), (np.array([1, 2]), rise.mean() / 2)):
        earlier = EarlierSearches(subject.curves, part)
        earlier.add(make_rule("cett"), found(0.13), [one])
        assert earlier.hints(make_rule("cett"), 1.01).part_factor == pytest.approx(factor)


def test_a_joint_rule_begins_at_the_level_of_cett_which_is_hardly_known_there(subject):
    """It limits the errors of the attention inputs too, and perplexity rises more at the same level."""
    earlier, joint = EarlierSearches(subject.curves, subject.part), make_rule("cett:neuron_norm+x")
    earlier.add(make_rule("cett"), found(0.13), [])
    assert earlier.reach(joint, 1.01).start == 0.13
    assert earlier.hints(joint, 1.01).start_sd == 1.0


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


def test_a_rule_on_other_values_begins_at_the_highest_ratio_found(subject):
    """A rule on `up` needs more neurons than rules on `h` on all models, so the search comes from the dense side."""
    earlier, curves = EarlierSearches(subject.curves, subject.part), subject.curves
    ratios = []
    for name, level in (("quantile", 0.8), ("quantile:neuron_norm", 0.6)):
        earlier.add(make_rule(name), found(level), [])
        ratios.append(make_rule(name).expected_ratio(level, curves))
    rule = make_rule("quantile:gate")
    start = rule.expected_ratio(rule.level(earlier.reach(rule, 1.01).start), curves)
    assert start == pytest.approx(max(ratios), rel=0.05)
    assert max(ratios) > 1.5 * min(ratios)


def test_a_rule_that_chooses_from_the_prompt_learns_no_level_from_others(subject):
    """GRIFFIN began at the ratio of rules per token, at which its perplexity rose by 80 to 190 times the target."""
    earlier, griffin = EarlierSearches(subject.curves, subject.part), make_rule("griffin")
    earlier.add(make_rule("quantile"), found(0.8), [])
    assert earlier.hints(griffin, 1.01).start_sd == math.inf
    assert earlier.reach(griffin, 1.01) == griffin.reach(subject.curves)
    assert griffin.level(griffin.reach(subject.curves).start) > 0.9


def test_the_more_alike_an_earlier_rule_is_the_more_its_level_says(subject):
    earlier = EarlierSearches(subject.curves, subject.part)
    assert earlier.hints(make_rule("cett"), 1.01).start_sd == math.inf
    earlier.add(make_rule("quantile:gate"), found(0.8), [])
    errors = [
        earlier.hints(make_rule(name), 1.01).start_sd for name in ("cats", "fat", "quantile", "quantile:x")
    ]
    assert errors == sorted(errors)
    assert errors[0] < errors[1] < errors[2] < errors[3] == math.inf
    assert earlier.hints(make_rule("cats"), 1.05).start_sd == math.inf, "the search was for another target"


def test_the_shape_of_the_curve_comes_from_the_calibrated_error(subject):
    earlier = EarlierSearches(subject.curves, subject.part)

    def hints(name):
        return earlier.hints(make_rule(name), 1.01)

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
    assert earlier.hints(rule, 1.01).slope.median == pytest.approx(2.0), "a single pass shows no exponent"
    earlier.add(rule, result, [one, two])
    assert earlier.hints(rule, 1.01).slope.median == pytest.approx(math.sqrt(2.0 * 3.0))


def test_equal_errors_of_other_values_are_a_rough_start(subject):
    """On SmolLM2 the error of `h` at PPL-1% is 2.5 times that of the gate."""
    earlier = EarlierSearches(subject.curves, subject.part)
    earlier.add(make_rule("cett:gate"), found(0.13), [])
    assert earlier.hints(make_rule("cett"), 1.01).start_sd == 0.6
    earlier.add(make_rule("cett:h"), found(0.2), [])
    assert earlier.hints(make_rule("cett"), 1.01).start_sd == 0.2
    assert earlier.reach(make_rule("cett"), 1.01).start == 0.2


def test_the_first_pass_over_the_part_corrects_its_factor_unless_it_refutes_the_start():
    labels = np.full(16, 100.0)

    def first(rise: float) -> Observation:
        return Observation(strength=0.1, rise=np.full(16, 100 * rise), labels=labels, on_all=False)

    hints = Hints(part_factor=1.0, part_sd=0.2, start_sd=0.2)
    assert hints.factor_after(first(0.01), 0.01) == pytest.approx(1.0)
    # two equally precise estimates, 1 and 1.25
    assert hints.factor_after(first(0.008), 0.01) == pytest.approx(1.25**0.5)
    assert hints.factor_after(first(0.001), 0.01) == 1.0, "the search begins far from the target"
    # the scatter of a single window is not known, so it says less about the whole corpus than equal windows do
    equal = first(0.03)
    single = dataclasses.replace(equal, rise=equal.rise[:1], labels=labels[:1])
    factors = [Hints(start_sd=0.35).factor_after(one, 0.01) for one in (single, equal)]
    assert 1 / 3 < factors[0] < factors[1] - 0.1 < 1
