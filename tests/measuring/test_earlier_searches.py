"""What finished searches teach the next one: where it begins, how the part differs, and the noise."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from sparsing.measuring.earlier_searches import EarlierSearches
from sparsing.measuring.observation import Observation
from sparsing.measuring.search import SearchResult
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
    return SearchResult(level=level, ppl_ratio=ppl_ratio, **rest, **options)


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
    assert earlier.hints(make_rule("cett")).part_factor == 1.0
    assert earlier.hints(make_rule("cett")).noise is None
    earlier.add(make_rule("cett"), found(0.13, ppl_ratio_noise=5e-4 * 1.01), [one])
    assert earlier.hints(make_rule("cett")).part_factor == pytest.approx(rise.mean())
    assert earlier.hints(make_rule("cett")).noise == pytest.approx(5e-4)


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
