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

from ..helpers.measuring import source_text, trained
from ..helpers.results import same
from ..helpers.tiny import tiny_tokenizer


def new_subject(journal: Journal | None = None, scores: tuple[str, ...] = ("neuron_norm", "gate")) -> Subject:
    corpus = load_corpus([source_text()[:10_000]], tiny_tokenizer(), window=32)
    return Subject(trained(), corpus, scores=scores, journal=journal, batch_size=16)


@functools.cache
def joined() -> tuple[Subject, Rule, float, list[float]]:
    """A subject, a rule, and the level of its pass and of each stage: a search whose stages ran at several levels."""
    subject = new_subject()
    for name in ("cett:gate", "cett", "fat", "quantile", "top_k"):
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


class PowerCut(Exception):
    """Stops a run in its middle."""


@pytest.mark.parametrize("after", [60, 110])
def test_a_comparison_that_was_cut_off_goes_on_to_the_same_result(after, tmp_path, monkeypatch):
    monkeypatch.setattr(sparsing.measuring.journal, "SAVE_EVERY_SEC", 0.0)

    def run(journal: Journal) -> RuleComparison:
        return compare(new_subject(journal), ["cett:gate", "fat"], ppl_ratio=1.05, steps=2)

    uncut, batches = run(Journal()), 0

    def stop(*_: object) -> None:
        nonlocal batches
        batches += 1
        if batches == after:
            raise PowerCut

    handle = trained().sites[1].down_proj.register_forward_pre_hook(stop)
    try:
        with pytest.raises(PowerCut):
            run(Journal(tmp_path))
    finally:
        handle.remove()
    again = run(Journal(tmp_path))
    assert same(again.points, uncut.points)
    assert same(again.overlap, uncut.overlap)
