"""Comparison of rules: every rule is measured at PPL-1%, with the figure of `measure`, and below it."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from sparsing.errors import InputError, TargetError, WeakResultWarning
from sparsing.measuring._measure import measure
from sparsing.measuring.active_sets import windows_of_sets
from sparsing.measuring.frontier import RuleComparison, _strengths_between, compare
from sparsing.measuring.intervals import resampled, windows_per_block
from sparsing.measuring.journal import Journal
from sparsing.measuring.observation import Observation
from sparsing.measuring.rule_order import order_rules
from sparsing.measuring.search_result import SearchResult
from sparsing.measuring.subject import Subject
from sparsing.measuring.target_interval import resampled_at_target
from sparsing.rules import make_rule
from sparsing.rules.mask import Mask
from sparsing.sites.tap import tapped
from sparsing.text.corpus import load_corpus

from ..helpers.measuring import source_text, trained
from ..helpers.tiny import tiny_tokenizer

RULES = ("cett", "top_k")


@pytest.fixture(scope="module")
def subject():
    return Subject(trained(), load_corpus([source_text()[:3000]], tiny_tokenizer(), window=48))


def test_searched_levels_have_the_figures_of_measure(subject):
    comparison = compare(subject, RULES, ppl_ratio=1.1, steps=5)
    assert comparison.num_tokens == subject.corpus.num_tokens
    for rule in RULES:
        points = comparison.of(rule)
        assert sorted(p.target_ppl_ratio for p in points if p.target_ppl_ratio) == [1.01, 1.05, 1.1]
        assert len(points) == 5
        for ppl_ratio in (1.01, 1.05):
            measured = measure(subject, rule, ppl_ratio=ppl_ratio)
            found = comparison.ratio_at(rule, ppl_ratio)
            # `compare` moves a pass along a curve of few passes: top_k at PPL-5% is 7% off, and its interval says so
            assert found == pytest.approx(measured.activation_ratio, rel=0.08)
            (point,) = [p for p in points if p.target_ppl_ratio == ppl_ratio]
            low, high = point.activation_ratio_interval
            assert low < measured.activation_ratio < high
            # a later search knows more passes, and another curve through them
            width = measured.activation_ratio_interval[1] - measured.activation_ratio_interval[0]
            assert 0.55 * width < high - low < 1.8 * width
        assert min(p.ppl_ratio for p in points) < 1.005, "no level below PPL-1%"
        assert [p.activation_ratio for p in points] == sorted(
            (p.activation_ratio for p in points), reverse=True
        )
        assert math.isnan(comparison.ratio_at(rule, 1.5))


def test_after_a_measurement_the_comparison_has_the_same_figures():
    """So that a page with both, as that of the demo, does not give two numbers for one question."""
    subject = Subject(trained(), load_corpus([source_text()[:3000]], tiny_tokenizer(), window=48))
    measured = [measure(subject, rule, ppl_ratio=1.01) for rule in RULES]
    comparison = compare(subject, RULES, ppl_ratio=1.05, steps=2)
    for rule, one in zip(RULES, measured, strict=True):
        (point,) = [p for p in comparison.of(rule) if p.target_ppl_ratio == 1.01]
        assert (point.activation_ratio, point.ppl_ratio) == pytest.approx(
            (one.activation_ratio, one.ppl_ratio), rel=1e-12
        )
        assert point.level == one.thresholds.level


def test_a_measurement_counts_the_same_groups_before_and_after_a_comparison(tmp_path):
    """A comparison sorts neurons by their counts on some windows, `measure` by those on the whole text."""
    corpus = load_corpus([source_text()[:12_000]], tiny_tokenizer(), window=48)
    subject = Subject(trained(), corpus, journal=Journal(tmp_path))
    level = subject.search(make_rule("cett"), 1.02, compared=True).level
    compared = subject.savings(subject.thresholds(make_rule("cett"), level), compared=True)
    after = measure(subject, "cett", level=level).savings
    alone = measure(Subject(trained(), corpus), "cett", level=level).savings
    np.testing.assert_array_equal(after.sorted_group_ratio, alone.sorted_group_ratio)
    np.testing.assert_array_equal(after.group_ratio, alone.group_ratio)
    assert not np.array_equal(compared.sorted_group_ratio, alone.sorted_group_ratio), (
        "the counted pass was used"
    )


def test_the_order_of_rules_is_paired_and_its_probabilities_add_up(subject, tmp_path):
    comparison = compare(subject, ("cett", "top_k", "cett:gate"), ppl_ratio=1.05, steps=2)
    assert [(order.target_ppl_ratio, order.measure) for order in comparison.orders] == [
        (ratio, measure)
        for ratio in (1.01, 1.05)
        for measure in ("activation ratio", "bytes, score computed first", "bytes, active neurons known")
    ]
    for order in comparison.orders:
        assert list(order.values) == sorted(order.values)
        np.testing.assert_allclose(order.probability + order.probability.T, 1)
        np.testing.assert_allclose(order.difference_low, -order.difference_high.T)
        assert (order.difference_low <= order.difference_high).all()
        for place, rule in enumerate(order.rules):
            (point,) = [p for p in comparison.of(rule) if p.target_ppl_ratio == order.target_ppl_ratio]
            wanted = {
                "activation ratio": point.activation_ratio,
                "bytes, score computed first": point.savings.active_bytes(known=False),
                "bytes, active neurons known": point.savings.active_bytes(known=True),
            }
            assert order.values[place] == pytest.approx(wanted[order.measure])
    read = RuleComparison.load(comparison.save(tmp_path / "comparison.json"))
    assert [order.rules for order in read.orders] == [order.rules for order in comparison.orders]
    np.testing.assert_array_equal(read.overlap.jaccard, comparison.overlap.jaccard)


def test_a_rule_compared_with_itself_differs_by_nothing_but_the_error_of_its_level():
    values = np.random.default_rng(0).normal(0.4, 0.02, 2000)
    order = order_rules("activation ratio", 1.01, {"a": 0.4, "b": 0.4}, {"a": values, "b": values}, 20.0)
    np.testing.assert_array_equal(order.difference_low, 0)
    np.testing.assert_array_equal(order.probability, 0.5)


def test_the_overlap_of_active_sets_equals_sets(subject):
    several = [subject.thresholds(make_rule("cett"), 0.2), subject.thresholds(make_rule("top_k"), 0.3)]
    found = subject.overlap(several)
    both = either = 0
    masks = [Mask(subject.loaded.sites, thresholds) for thresholds in several]
    for batch in subject.corpus.part(windows_of_sets(subject.corpus)).batches(1):
        for mask in masks:
            mask.real = batch.real

        def see(index, rows, counted=batch.counted[0]):
            nonlocal both, either
            first, second = (
                {tuple(pair) for pair in mask.active(index, rows)[counted].nonzero().tolist()}
                for mask in masks
            )
            both, either = both + len(first & second), either + len(first | second)

        with torch.no_grad(), tapped(subject.loaded.sites, see, gate=True):
            subject.loaded.model(batch.ids)
    assert found[0, 1] == found[1, 0] == pytest.approx(both / either)
    assert found[0, 0] == found[1, 1] == 1


def test_a_search_that_found_no_rise_of_perplexity_gives_no_nan():
    """On a few tokens a sparse pass may have a lower perplexity than the dense pass."""
    rule = make_rule("top_k")

    def found(level, ppl_ratio):
        settings = {"target_ppl_ratio": 1.01, "converged": False, "monotone": True, "slope": 2.0, "tries": ()}
        return SearchResult(level=level, ppl_ratio=ppl_ratio, **settings)

    levels = [found(0.5, 0.99), found(0.3, 1.05), found(0.2, 1.1)]
    between = _strengths_between(rule, levels, 1.1, 3)
    assert all(0 < rule.level(strength) <= 1 for strength in between)
    assert between == _strengths_between(rule, levels[1:], 1.1, 3)
    assert _strengths_between(rule, levels[:1], 1.1, 3) == []


def test_a_rule_that_reaches_no_target_is_left_out(subject, monkeypatch):
    """The figures of the other rules are not lost."""
    search = subject.search

    def failing(rule, target, **options):
        if rule.name in missing:
            raise TargetError("no level reaches it")
        return search(rule, target, **options)

    monkeypatch.setattr(subject, "search", failing)
    missing = ("top_k",)
    with pytest.warns(WeakResultWarning, match=r"top_k is left out of the comparison: no level reaches it"):
        assert compare(subject, RULES, ppl_ratio=1.1, steps=3).rules() == ["cett"]
    missing = RULES
    with pytest.warns(WeakResultWarning, match="is left out"), pytest.raises(TargetError):
        compare(subject, RULES, ppl_ratio=1.1, steps=3)


def test_a_search_that_did_not_converge_is_named(subject, monkeypatch):
    search = subject.search

    def unsure(rule, target, **options):
        found = search(rule, target, **options)
        far = 2 * found.fitted_strength
        return dataclasses.replace(found, converged=False, ppl_ratio=1.3, fitted_strength=far)

    monkeypatch.setattr(subject, "search", unsure)
    with pytest.warns(WeakResultWarning, match=r"cett: no level meets the target .* has 1.30000") as warned:
        comparison = compare(subject, ("cett",), ppl_ratio=1.1, steps=4)
    assert [point.converged for point in comparison.points] == [
        point.target_ppl_ratio is None for point in comparison.points
    ]
    assert len(warned) == 3, "one for each target"
    for point in comparison.points:
        low, high = point.activation_ratio_interval
        assert low <= point.activation_ratio <= high


def test_a_rule_given_twice_is_refused(subject):
    with pytest.raises(InputError, match="more than once: cett"):
        compare(subject, ("cett", "top_k", "cett:neuron_norm"))


def test_resamples_of_a_level_without_a_rise_keep_their_sign():
    """A resample whose loss rises more than that of the text meets the target with more neurons, never with fewer."""
    rng = np.random.default_rng(0)
    n = 32
    rise, labels, tokens = rng.normal(0, 0.1, n), np.full(n, 10.0), np.full(n, 10.0)
    rise -= rise.mean() + 1e-4
    settings = {"target_ppl_ratio": 1.01, "converged": False, "monotone": True, "slope": 1.0, "tries": ()}
    for ppl_ratio in (1.0, math.exp(-1e-5)):
        found = SearchResult(level=0.5, ppl_ratio=ppl_ratio, **settings)
        observed = Observation(strength=1.0, rise=rise, labels=labels, on_all=True)
        ratios = resampled_at_target(np.full((n, 1), 5.0), tokens, observed, found, lambda s: np.exp(-s))[
            :, 0
        ]
        sums = resampled(np.stack([rise, labels], 1), length=windows_per_block(n))
        order = np.corrcoef(sums[:, 0] / sums[:, 1], ratios)[0, 1]
        assert np.isfinite(ratios).all()
        assert order > 0.5


def test_the_progress_of_every_pass_names_rule_and_level(monkeypatch):
    """Levels between the searched ones have no try that would name them; their keys hold all thresholds."""
    own, labels = Subject(trained(), load_corpus([source_text()[:3000]], tiny_tokenizer(), window=48)), []
    run = own._run
    monkeypatch.setattr(own, "_run", lambda *args, **named: labels.append(args[4]) or run(*args, **named))
    compare(own, ("cett",), ppl_ratio=1.05, steps=4)
    assert labels
    assert all(len(label) < 90 and "(0." not in label for label in labels), labels
