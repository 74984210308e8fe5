"""Passes of a comparison whose stages ran at several levels, against passes at one level each."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

import sparsing.measuring.journal
from sparsing.measuring.counted_passes import StageOfPass
from sparsing.measuring.frontier import RuleComparison, compare
from sparsing.measuring.journal import Journal
from sparsing.measuring.subject import Subject
from sparsing.rules import Rule, make_rule
from sparsing.text.corpus import load_corpus

from ..helpers.measuring import cut_off, loaded, source_text, trained
from ..helpers.results import same
from ..helpers.tiny import tiny_tokenizer
from ..helpers.tiny_experts import build_experts


def new_subject(journal: Journal | None = None, scores: tuple[str, ...] = ("neuron_norm", "gate")) -> Subject:
    corpus = load_corpus([source_text()[:10_000]], tiny_tokenizer(), window=32)
    return Subject(trained(), corpus, scores=scores, journal=journal, batch_size=16)


@functools.cache
def joined() -> tuple[Subject, Rule, float, list[float]]:
    """A subject, a rule, and the level of its pass and of each stage: a search whose stages ran at several levels."""
    subject = new_subject()
    for name in ("cett:gate", "cett", "fat", "quantile:gate", "top_k"):
        rule = make_rule(name)
        for ppl_ratio in (1.02, 1.1):
            found = subject.search(rule, ppl_ratio, compared=True)
            for one in subject.passes_of(rule):
                if one.stages and one.level == found.level:
                    return subject, rule, found.level, [stage.level for stage in one.stages]
    raise AssertionError("no search ran stages at several levels")


def stages_of(subject: Subject) -> tuple[np.ndarray, ...]:
    return subject._counted.stages


def test_a_joined_pass_consists_of_its_stages():
    subject, rule, level, levels = joined()
    assert len(set(levels)) > 1
    assert min(levels) < level < max(levels)
    (one,) = [one for one in subject.passes_of(rule) if one.stages and one.level == level]
    assert one.strength == pytest.approx(rule.strength(level), rel=1e-6)
    whole = subject.counted_pass(subject.thresholds(rule, level))
    dense = subject.curves.window_nll
    np.testing.assert_allclose(whole.nll - dense, one.rise, rtol=1e-9, atol=1e-9)
    alone = new_subject()
    assert torch.equal(whole.totals.tokens, alone.counted_pass(alone.thresholds(rule, level)).totals.tokens)
    for own, stage in zip(stages_of(subject), one.stages, strict=True):
        at_level = alone.counted_pass(alone.thresholds(rule, stage.level))
        np.testing.assert_allclose(
            (whole.nll - dense)[own], stage.rise_factor * (at_level.nll - dense)[own], rtol=1e-6, atol=1e-6
        )
        np.testing.assert_array_equal(whole.labels[own], at_level.labels[own])
        counts, expected = (
            np.stack([site.numpy()[own] for site in each.totals.active], 1) for each in (whole, at_level)
        )
        # all windows of a stage are multiplied by one factor
        factor = counts.sum() / expected.sum()
        np.testing.assert_allclose(counts, factor * expected, rtol=0.02, atol=2)
        denser = stage.level < level if rule.name != "top_k" else stage.level > level
        assert (factor < 1) == denser


def test_the_ratio_of_a_joined_pass_is_that_of_a_pass_at_its_level():
    subject, rule, level, levels = joined()
    alone = new_subject()
    ratio, pure = (s.ratios(s.thresholds(rule, level)) for s in (subject, alone))
    assert ratio == pytest.approx(pure, rel=0.015)
    others = [alone.ratios(alone.thresholds(rule, other)).mean() for other in levels]
    assert max(others) / min(others) > 1.08, "stages at near levels would show nothing"


def test_moved_counts_keep_ratios_below_one():
    subject = new_subject()
    rule = make_rule("fat")
    thresholds, dense = subject.thresholds(rule, 0.02), subject.thresholds(rule, 0.0001)
    stages = [StageOfPass(thresholds, 1.0, 1.3)] * len(stages_of(subject))
    plain = subject.ratios(thresholds)
    subject._counted.join(dense, stages)
    moved = subject.ratios(dense)
    assert plain.max() * 1.3 > 1, "no site would exceed 1"
    assert moved.max() <= 1
    assert moved.mean() == pytest.approx(min(1.0, 1.3 * plain.mean()), rel=1e-3)


def test_sets_of_an_earlier_process_are_read_from_its_journal(tmp_path):
    first, second = new_subject(Journal(tmp_path)), new_subject(Journal(tmp_path))
    thresholds = first.thresholds(make_rule("cett"), 0.2)
    first.counted_pass(thresholds)
    before, after = (subject.savings(thresholds, compared=True) for subject in (first, second))
    np.testing.assert_array_equal(after.sorted_group_ratio, before.sorted_group_ratio)
    np.testing.assert_array_equal(after.union_ratio, before.union_ratio)


@pytest.mark.parametrize("per_expert", [False, True])
def test_a_pass_of_routed_experts_can_be_joined(per_expert):
    corpus = load_corpus([source_text()[:6000]], tiny_tokenizer(), window=32)
    experts = loaded(build_experts("mixtral"))
    subject = Subject(experts, corpus, scores=("neuron_norm",), per_expert=per_expert)
    rule = make_rule("cett")
    sparse, dense = (subject.thresholds(rule, level) for level in (0.3, 0.2))
    subject._counted.join(dense, [StageOfPass(sparse, 1.0, 1.1)] * len(stages_of(subject)))
    np.testing.assert_allclose(subject.ratios(dense), 1.1 * subject.ratios(sparse), rtol=2e-3)
    savings = subject.savings(dense, compared=True).moved_to(subject.ratios(dense))
    np.testing.assert_allclose(savings.union_ratio[:, 0], subject.ratios(dense), rtol=1e-6)
    assert (np.diff(savings.union_ratio) > 0).all()


@pytest.mark.parametrize("after", [60, 110])
def test_a_comparison_that_was_cut_off_goes_on_to_the_same_result(after, tmp_path, monkeypatch):
    monkeypatch.setattr(sparsing.measuring.journal, "SAVE_EVERY_SEC", 0.0)

    def run(journal: Journal) -> RuleComparison:
        return compare(new_subject(journal), ["cett:gate", "fat"], ppl_ratio=1.05, steps=2)

    uncut = run(Journal())
    with cut_off(after):
        run(Journal(tmp_path))
    again = run(Journal(tmp_path))
    assert same(again.points, uncut.points)
    assert same(again.overlap, uncut.overlap)


def test_a_measurement_after_a_comparison_runs_its_own_passes():
    """It took a joined pass for one of its passes, and reported a perplexity ratio that its level does not have."""
    subject, seen = new_subject(), 0
    for name in ("cett:gate", "cett", "fat", "quantile:gate", "top_k", "top_k:neuron_norm"):
        rule = make_rule(name)
        subject.search(rule, 1.02, compared=True)
        for one in [one for one in subject.passes_of(rule) if one.stages]:
            found = subject.search(rule, one.ppl_ratio)
            assert found.tries, "a joined pass that meets the target exactly"
            assert not any(tried.at_several_levels for tried in found.tries)
            real = subject.sparse_pass(subject.thresholds(rule, found.level))
            assert found.ppl_ratio == pytest.approx(
                np.exp(real.mean_rise(subject.curves.window_nll)), rel=1e-9
            )
            seen += 1
    assert seen >= 2


def test_a_repeated_search_and_a_higher_target_use_a_joined_pass():
    subject, rule, level, _ = joined()
    (target,) = {
        target for target in (1.02, 1.1) if subject.search(rule, target, compared=True).level == level
    }
    again = subject.search(rule, target, compared=True)
    assert not again.tries, "the same level of the same pass"
    assert not again.meets_target, "its figures are moved to the target"
    higher = subject.search(rule, 1.2, compared=True)
    assert higher.converged
    assert np.exp(
        subject.counted_pass(subject.thresholds(rule, level)).mean_rise(subject.curves.window_nll)
    ) == (pytest.approx(again.ppl_ratio))


def test_groups_and_unions_of_a_joined_pass_are_those_of_its_last_stage():
    subject, rule, level, levels = joined()
    alone = new_subject()
    savings = subject.savings(subject.thresholds(rule, level), compared=True)
    alone.counted_pass(alone.thresholds(rule, levels[-1]))
    last = alone.savings(alone.thresholds(rule, levels[-1]), compared=True)
    np.testing.assert_allclose(savings.union_ratio, last.union_ratio, rtol=0.01)
    np.testing.assert_allclose(savings.group_ratio, last.group_ratio, rtol=0.01)


def test_no_group_ratio_of_a_comparison_is_below_the_activation_ratio():
    comparison = compare(new_subject(), ["cett", "top_k", "fat"], ppl_ratio=1.05, steps=2)
    for point in comparison.points:
        assert point.savings is not None
        own = point.savings
        if point.measured_ppl_ratio != point.ppl_ratio:  # moved
            np.testing.assert_allclose(own.group_ratio[:, 0], own.activation_ratio, rtol=1e-6)
        assert (np.diff(own.group_ratio, axis=1) >= -0.02).all(), "larger groups are idle less often"
        assert (np.diff(own.union_ratio, axis=1) >= 0).all()
