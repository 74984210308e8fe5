"""Measuring: every figure against brute force, the verified search, what is refused and what is warned of."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch

import sparsing.measuring.journal
from sparsing.errors import InputError, TargetError
from sparsing.measuring._measure import measure
from sparsing.measuring.active_counts import ActiveObserver
from sparsing.measuring.active_sets import windows_of_sets
from sparsing.measuring.journal import Journal
from sparsing.measuring.measurement import DEAD_BELOW, Measurement
from sparsing.measuring.passes import run_pass
from sparsing.measuring.stages import part_windows
from sparsing.measuring.subject import Subject
from sparsing.measuring.token_record import SHOWN_TOKENS
from sparsing.models.loading import load_model
from sparsing.rules import make_rule
from sparsing.rules.mask import Mask, sparsify
from sparsing.rules.thresholds import Thresholds
from sparsing.sites.tap import tapped
from sparsing.text.corpus import load_corpus, split_holdout

from ..helpers.measuring import cut_off, loaded, random_text, source_text, text_corpus, tiny_loaded, trained
from ..helpers.results import same
from ..helpers.tiny import tiny_tokenizer

ROUGH = pytest.mark.filterwarnings(  # on so few tokens one neuron of one token moves the ratio by 1e-4
    "ignore:.*no level comes within:UserWarning", "ignore:.*perplexity is not monotone:UserWarning"
)
RULES = [("cett", {}), ("fat", {}), ("top_k", {}), ("top_k", {"scope": "sequence"})]


@functools.cache
def whole() -> Subject:
    """The trained tiny model on a stride of source text, an eighth of it held out."""
    corpus = load_corpus([source_text()[:3500]], tiny_tokenizer(), window=32, stride=25, bos="always")
    kept, held = split_holdout(corpus, 0.125)
    return Subject(trained(), kept, heldout=held)


def brute(subject: Subject, thresholds: Thresholds, corpus) -> dict[str, Any]:
    """Perplexities and the active set of every counted token, `(n_layers, tokens, d_ff)`, window by window."""
    model, sites = subject.loaded.model, subject.loaded.sites
    losses, active = [], [[] for _ in sites]
    for batch in corpus.batches(1):
        targets = batch.labelled[0, 1:]

        def see(index, rows, counted=batch.counted[0]):
            active[index].append((rows.h != 0)[counted])

        with torch.no_grad():
            dense = model(batch.ids).logits
            with sparsify(model, thresholds), tapped(sites, see, gate=False):
                sparse = model(batch.ids).logits
        logs = torch.stack([dense[0], sparse[0]]).double().log_softmax(-1)[:, :-1]
        losses.append(-logs.gather(-1, batch.ids[0, 1:, None].expand(2, -1, 1))[:, targets, 0])
    dense_ppl, sparse_ppl = torch.cat(losses, dim=1).mean(1).exp().tolist()
    sets = torch.stack([torch.cat(layer) for layer in active]).numpy()
    return {"ppl_dense": dense_ppl, "ppl_sparse": sparse_ppl, "active": sets}


@pytest.mark.parametrize(("rule", "level"), [("cett", 0.3), ("fat", 0.1), ("top_k", 0.3)])
def test_every_figure_is_that_of_brute_force(rule, level):
    subject = whole()
    found = measure(subject, rule, level=level)
    wanted = brute(subject, found.thresholds, subject.corpus)
    active = wanted["active"]
    assert found.num_tokens == active.shape[1] == subject.corpus.num_tokens
    assert found.ppl_dense == pytest.approx(wanted["ppl_dense"], rel=1e-6)
    assert found.ppl_sparse == pytest.approx(wanted["ppl_sparse"], rel=1e-5)
    assert found.ppl_ratio == pytest.approx(found.ppl_sparse / found.ppl_dense, rel=1e-9)
    assert found.layer_activation_ratio == pytest.approx(active.mean((1, 2)), abs=1e-5)
    assert found.activation_ratio == pytest.approx(active.mean(), abs=1e-5)
    assert found.sparsity == 1 - found.activation_ratio
    np.testing.assert_allclose(found.neuron_frequency, active.mean(1), atol=1e-3)
    dead = (active.mean(1) < DEAD_BELOW).mean(1)
    assert found.dead_neuron_ratio == pytest.approx(dead, abs=1e-9)
    held = brute(subject, found.thresholds, subject.heldout)
    assert found.heldout.num_tokens == held["active"].shape[1]
    assert found.heldout.ppl_ratio == pytest.approx(held["ppl_sparse"] / held["ppl_dense"], rel=1e-5)
    assert found.heldout.activation_ratio == pytest.approx(held["active"].mean(), abs=1e-4)


def test_ratios_by_position_and_by_token():
    subject = whole()
    found = measure(subject, "cett", level=0.2)
    per_token = brute(subject, found.thresholds, subject.corpus)["active"].mean(2)  # (n_layers, tokens)
    counted = torch.cat([batch.counted for batch in subject.corpus.batches(10**6)])
    by_position = np.full(counted.shape, np.nan)
    by_position[counted.numpy()] = per_token.mean(0)
    seen = counted.any(0).numpy()
    assert np.isnan(found.position_activation_ratio).tolist() == (~seen).tolist()
    np.testing.assert_allclose(
        found.position_activation_ratio[seen], np.nanmean(by_position[:, seen], axis=0), atol=1e-3
    )
    first = int(counted[: -(-SHOWN_TOKENS // subject.corpus.width)].sum())
    np.testing.assert_allclose(found.token_activation_ratio, per_token[:, :first].T, atol=0.011)
    assert "".join(found.token_text) == source_text()[:first]
    assert len(found.token_text) == len(found.token_activation_ratio) == first


@pytest.mark.parametrize("order", [(9, 31, 20), (31, 9, 20)])
def test_documents_of_unlike_length_are_shown_and_counted(order):
    texts = [random_text(n, seed=n) for n in order]
    subject = Subject(tiny_loaded(), load_corpus(texts, tiny_tokenizer(), window=32, documents=True))
    found = measure(subject, "cett", level=0.2)
    assert found.num_tokens == 60
    assert "".join(found.token_text) == "".join(texts)
    assert found.token_activation_ratio.shape == (60, 2)


@pytest.mark.filterwarnings("ignore:top_k.* no level comes within:UserWarning")
@pytest.mark.parametrize(("rule", "options"), RULES)
def test_a_searched_level_is_met_and_verified(rule, options):
    subject = whole()
    found = measure(subject, make_rule(rule, **options), ppl_ratio=1.05)
    low, high = found.ppl_ratio_interval
    # met as nearly as the text can tell: within the stated share of the sampling error
    allowed = max(1e-4, (high - low) / 4)
    assert found.ppl_ratio == pytest.approx(1.05, abs=allowed if found.converged else 5e-3)
    assert found.converged or rule == "top_k"  # its levels are whole neurons
    assert found.fitted_ppl_ratio == pytest.approx(found.ppl_ratio, abs=5e-3)
    assert found.ppl_ratio_noise is None, "float32 has no noise to speak of"
    assert found.target_ppl_ratio == found.thresholds.target_ppl_ratio == 1.05
    assert found.tries
    again = measure(subject, thresholds=found.thresholds)
    for name in ("activation_ratio", "ppl_ratio", "cett_dense_inputs", "cett_sparse_inputs", "heldout"):
        assert getattr(again, name) == getattr(found, name)
    assert measure(subject, make_rule(rule, **options), level=found.level).ppl_ratio == found.ppl_ratio


def test_the_cett_rule_meets_its_level_in_every_layer():
    found = measure(whole(), "cett", level=0.25)
    assert found.cett_dense_inputs == pytest.approx([0.25, 0.25], rel=0.02)
    assert found.cett_sparse_inputs[0] == pytest.approx(found.cett_dense_inputs[0], rel=1e-4)
    assert found.cett_sparse_inputs[1] != found.cett_dense_inputs[1]


def test_intervals_hold_the_figures():
    for asked in ({"level": 0.2}, {"ppl_ratio": 1.03}):
        found = measure(whole(), "cett", **asked)
        for value, interval in (
            (found.activation_ratio, found.activation_ratio_interval),
            (found.ppl_ratio, found.ppl_ratio_interval),
            *zip(found.layer_activation_ratio, found.layer_activation_ratio_interval, strict=True),
        ):
            assert interval[0] <= value <= interval[1]
    assert measure(whole(), "cett", ppl_ratio=1.03).activation_ratio_interval != (
        measure(whole(), "cett", level=found.level).activation_ratio_interval
    )


def test_a_single_window_has_no_interval():
    found = measure(Subject(tiny_loaded(), text_corpus(30)), "cett", level=0.2)
    assert found.activation_ratio_interval is None
    assert found.layer_activation_ratio_interval is None
    assert found.ppl_ratio_interval is None
    assert found.heldout is None


def test_saved_and_read_again(tmp_path):
    found = measure(whole(), "cett", ppl_ratio=1.05)
    read = Measurement.load(found.save(tmp_path / "m.json"))
    for field in dataclasses.fields(Measurement):
        assert same(getattr(found, field.name), getattr(read, field.name)), field.name
    line = Thresholds.from_line(found.thresholds.to_line())
    unknown = measure(whole(), thresholds=line)
    assert math.isnan(Measurement.load(unknown.save(tmp_path / "u.json")).level)


def test_names():
    found = measure(whole(), "cett", ppl_ratio=1.05)
    assert (found.name, found.slug) == ("PPL-5%", "cett-ppl-5")
    found = measure(whole(), "fat", level=0.1)
    assert (found.name, found.slug, found.level_name) == ("fat 0.1", "fat-0.1", "eps")
    assert found.provenance.corpus_sha256 == whole().corpus.sha256()


def test_exactly_one_of_three_is_asked_for():
    thresholds = measure(whole(), "fat", level=0.1).thresholds
    with pytest.raises(InputError, match="exactly one of level, ppl_ratio, thresholds; got none"):
        measure(whole(), "cett")
    with pytest.raises(InputError, match=r"got \['level', 'thresholds'\]"):
        measure(whole(), "cett", level=0.1, thresholds=thresholds)
    with pytest.raises(InputError, match=r"Unknown rule 'fatt'\. Did you mean: fat\?"):
        measure(whole(), "fatt", level=0.1)
    with pytest.raises(InputError, match=r"level of cett \(CETT\) must be in \[0, 1\], got 2"):
        measure(whole(), "cett", level=2)
    with pytest.raises(InputError, match="3 thresholds for a model of 2 sites"):
        measure(whole(), thresholds=dataclasses.replace(thresholds, values=(0.1, 0.1, 0.1)))
    with pytest.raises(InputError, match="the target ppl_ratio must be above 1"):
        measure(whole(), "cett", ppl_ratio=1.0)
    with pytest.raises(TargetError, match="no level of cett reaches ppl_ratio 1000000"):
        measure(whole(), "cett", ppl_ratio=1e6)


@pytest.mark.filterwarnings("ignore:.*perplexity is not monotone:UserWarning")
def test_what_is_warned_of():
    short = Subject(trained(), load_corpus([source_text()[:60]], tiny_tokenizer(), window=32))
    with pytest.warns(
        UserWarning,
        match=r"PPL-1%: \d+ tokens in 2 windows are too few to distinguish levels: the 95% interval of ppl_ratio is",
    ):
        measure(short, "cett", ppl_ratio=1.01)
    with pytest.warns(UserWarning, match=r"layers \[0, 1\] stay dense: all neurons are always active"):
        dense = measure(short, "cett", level=0.0)
    assert dense.ppl_ratio == 1.0
    assert dense.cett_dense_inputs == (0.0, 0.0)


@pytest.mark.filterwarnings("ignore:.*too few to distinguish levels:UserWarning")
@pytest.mark.filterwarnings("ignore:.*rounding in bfloat16 changes ppl_ratio by 0:UserWarning")
@pytest.mark.parametrize("known", [True, False])
def test_half_precision_without_an_estimate_of_its_noise_is_warned_of(known, monkeypatch):
    if not known:
        monkeypatch.setattr("sparsing.measuring.search.arithmetic_noise", lambda *_: None)
    model = loaded(copy.deepcopy(trained().model).to(torch.bfloat16))
    subject = Subject(model, load_corpus([source_text()[:2000]], tiny_tokenizer(), window=32))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = measure(subject, "cett", ppl_ratio=1.05)
    unknown = [one for one in caught if "changes ppl_ratio by an unknown amount" in str(one.message)]
    assert (found.ppl_ratio_noise is None) == (not known) == bool(unknown)


def test_a_long_corpus_is_bracketed_on_a_part():
    text = source_text()[:10000]
    corpus = load_corpus([text], tiny_tokenizer(), window=32)
    subject = Subject(trained(), corpus)
    assert subject.part is not None
    part = part_windows(corpus.n_windows, corpus.width)
    assert corpus.part(part).num_tokens < corpus.num_tokens / 2
    found = measure(subject, "cett", ppl_ratio=1.02)
    assert found.converged
    assert not found.tries[0].on_all
    # calibration, search, realised CETT, groups and unions
    forward = 1 + sum(1.0 if t.on_all else len(part) / corpus.n_windows for t in found.tries) + 1
    forward += corpus.part(windows_of_sets(corpus)).num_tokens / corpus.num_tokens
    assert found.cost.forward_passes == pytest.approx(forward, rel=0.02)
    assert found.cost.wall_sec > 0
    assert found.cost.dense_forward_equivalents > 0


@pytest.mark.parametrize(("rule", "level"), [("cett", 0.2), ("top_k", 0.3), ("quantile:x", 0.4)])
def test_a_counted_pass_in_stages_equals_one_pass(rule, level):
    corpus = load_corpus([source_text()[:10000]], tiny_tokenizer(), window=32)
    rule = make_rule(rule)
    subject = Subject(trained(), corpus, scores=(rule.score,))
    thresholds, sites = subject.thresholds(rule, level), subject.sites(rule.score)
    counted = subject.counted_pass(thresholds)
    observer, mask = ActiveObserver(sites, corpus), Mask(sites, thresholds)
    whole = run_pass(subject.covering(rule.score), corpus, observer, mask, key="whole")
    assert subject.part is not None
    assert counted.nll == pytest.approx(whole.nll, rel=1e-5)
    assert (counted.labels == whole.labels).all()
    for path, tensor in whole.totals.tensors().items():
        # in other batches products round differently, so a few neurons at a cut differ
        assert counted.totals.tensors()[path].sum() == pytest.approx(int(tensor.sum()), rel=2e-3), path
    assert torch.equal(counted.totals.tokens, whole.totals.tokens)
    # sets are counted on other windows than the part, so unions of one token agree within their sampling error
    savings = subject.savings(thresholds)
    assert savings.num_tokens == pytest.approx(2048, abs=2 * corpus.width)
    assert savings.union_ratio[:, 0] == pytest.approx(subject.ratios(thresholds), rel=0.1)


@ROUGH
@pytest.mark.parametrize("after", [3, 40])
def test_a_run_that_was_cut_off_goes_on_to_the_same_result(after, tmp_path, monkeypatch):
    monkeypatch.setattr(sparsing.measuring.journal, "SAVE_EVERY_SEC", 0.0)
    corpus = load_corpus([source_text()[:2000]], tiny_tokenizer(), window=32)
    kept, held = split_holdout(corpus, 0.2)

    def run(journal: Journal) -> Measurement:
        subject = Subject(
            trained(), kept, heldout=held, journal=journal, batch_size=8, scores=("neuron_norm",)
        )
        return measure(subject, "cett", ppl_ratio=1.1)

    uncut = run(Journal())
    with cut_off(after):
        run(Journal(tmp_path))
    resumed = run(Journal(tmp_path))
    for field in dataclasses.fields(Measurement):
        before, after_ = getattr(uncut, field.name), getattr(resumed, field.name)
        if isinstance(before, np.ndarray):
            assert before.tobytes() == after_.tobytes(), field.name
        elif field.name not in ("cost", "provenance", "thresholds", "savings"):
            assert before == after_, field.name
    assert resumed.savings.to_dict() == uncut.savings.to_dict()
    assert resumed.thresholds.numbers == uncut.thresholds.numbers


def test_the_batch_size_changes_nothing_that_shows():
    corpus = load_corpus([source_text()[:1500]], tiny_tokenizer(), window=32)
    one, five = (
        measure(Subject(trained(), corpus, batch_size=size, scores=("neuron_norm",)), "cett", level=0.3)
        for size in (1, 5)
    )
    assert one.thresholds.numbers == pytest.approx(five.thresholds.numbers, rel=1e-6)
    for name in ("ppl_ratio", "activation_ratio", "cett_dense_inputs", "cett_sparse_inputs"):
        assert getattr(one, name) == pytest.approx(getattr(five, name), rel=1e-3), name


@ROUGH
def test_a_real_model_on_stories(shared):
    loaded = load_model(shared / "models" / "stories260K", device="cpu")
    text = str(shared / "text" / "tinystories_maxme1.txt")
    corpus = load_corpus(text, loaded.tokenizer, window=256, max_tokens=1500)
    kept, held = split_holdout(corpus, 0.1)
    subject = Subject(loaded, kept, heldout=held, scores=("neuron_norm",))
    found = [measure(subject, "cett", ppl_ratio=ratio) for ratio in (1.02, 1.1)]
    for measured, ratio in zip(found, (1.02, 1.1), strict=True):
        assert measured.ppl_ratio - 1 == pytest.approx(ratio - 1, rel=0.05)
        low, high = measured.activation_ratio_interval
        assert low <= measured.activation_ratio <= high
        assert 1.0 < measured.heldout.ppl_ratio < 1 + 5 * (ratio - 1)  # 150 tokens
    assert found[0].activation_ratio > found[1].activation_ratio
    assert found[0].ppl_dense < 10
