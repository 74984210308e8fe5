"""Predictors of a model: their recall on held-out tokens, their effect on perplexity, and saving and loading."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from sparsing.decode._accelerate import accelerate
from sparsing.decode.predict.effect import PredictedMask, predictor_effect
from sparsing.decode.predict.input_sample import sample_corpus
from sparsing.decode.predict.inputs import inputs_tapped
from sparsing.decode.predict.predictor import Predictor, PredictorEffect, calibrate_predictor
from sparsing.demo import heldout_text
from sparsing.errors import InputError
from sparsing.measuring.passes import LossOnly, run_pass
from sparsing.models.loading import load_model
from sparsing.sites.tap import tapped
from sparsing.text.corpus import load_corpus

from ...helpers.decode_models import decoded_logits, demo, generate_greedily, subjects, tiny

pytest.importorskip("numba", reason="the CPU kernels need numba: pip install 'sparsing[cpu]'")


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_perplexity_with_four_bits_is_within_a_thousandth(activation):
    loaded, corpus, thresholds = demo(activation, 0.1)
    predictor = calibrate_predictor(loaded, corpus, thresholds, bits=4, recall=0.998)
    text = load_corpus([heldout_text()], loaded.tokenizer, window=256, max_tokens=12_000)
    assert within_a_thousandth(predictor_effect(loaded, text, predictor))
    assert predictor.mean_recall == pytest.approx(0.998, abs=0.002)
    for report in predictor.reports:
        assert report.activation_ratio < report.predicted_ratio < 1
        assert report.predictor_bytes / (3 * 4 * 128 * 320) == pytest.approx(
            report.bytes_ratio - report.predicted_ratio
        )


def test_perplexity_of_stories260k_needs_eight_bits_and_more_recall(shared):
    loaded = load_model(shared / "models" / "stories260K", dtype="float32", device="cpu")
    story = (shared / "text" / "tinystories_maxme1.txt").read_text(encoding="utf-8")
    loaded, corpus, thresholds = subjects(loaded, story, 0.1)
    text = load_corpus([story], loaded.tokenizer, window=256, max_tokens=12_000)
    effects = [
        predictor_effect(
            loaded, text, calibrate_predictor(loaded, corpus, thresholds, bits=bits, recall=recall)
        )
        for bits, recall in ((4, 0.995), (8, 0.999))
    ]
    assert [within_a_thousandth(effect) for effect in effects] == [False, True]


def within_a_thousandth(effect: PredictorEffect) -> bool:
    assert effect.ppl_ratio_exact > 1.003, "the rule costs something on this text"
    assert effect.ppl_ratio_exact != effect.ppl_ratio_predicted
    assert effect.ppl_change_interval[0] < effect.ppl_change < effect.ppl_change_interval[1]
    return abs(effect.ppl_change) < 1e-3


def test_more_recall_predicts_more_and_changes_perplexity_less():
    loaded, corpus, thresholds = demo("relu")
    loose, tight = (calibrate_predictor(loaded, corpus, thresholds, recall=recall) for recall in (0.9, 0.999))
    assert loose.mean_recall < tight.mean_recall
    assert loose.mean_predicted_ratio < tight.mean_predicted_ratio
    changes = [abs(predictor_effect(loaded, corpus, p).ppl_change) for p in (loose, tight)]
    assert changes[1] < changes[0]


def test_decoding_with_a_predictor_equals_the_predicted_pass():
    """The logits equal those of one masked pass over the same tokens."""
    loaded, corpus, thresholds = demo("silu")
    predictor = calibrate_predictor(loaded, corpus, thresholds, recall=0.9)
    ids = next(corpus.batches(1)).ids[:, :32]
    mask = PredictedMask(loaded, predictor)
    hooks = inputs_tapped(loaded.sites, mask.on_input), tapped(loaded.sites, mask.masked, gate=False)
    with torch.inference_mode(), hooks[0], hooks[1]:
        expected = loaded.model(input_ids=ids).logits[:, :-1]
    with accelerate(loaded.model, thresholds, predictor=predictor, measure=False, check_recall=True) as fast:
        logits = decoded_logits(fast.model, ids, 1)
        stats = fast.stats()
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=2e-2)
    assert stats.recall == pytest.approx(0.9, abs=0.05)
    assert all(layer.gate_ratio < 1 for layer in stats.layers)


def test_a_loaded_predictor_predicts_the_same(tmp_path):
    loaded, corpus, thresholds = demo("silu")
    made = calibrate_predictor(loaded, corpus, thresholds, bits=8, tokens=512)
    made = dataclasses.replace(made, effect=predictor_effect(loaded, corpus, made))
    back = Predictor.load(made.save(tmp_path / "predictor.json"))
    assert back.effect == made.effect
    assert back.reports == made.reports
    x = torch.randn(5, 128, generator=torch.Generator().manual_seed(0))
    for index in range(len(loaded.sites)):
        assert torch.equal(back.layer(index).sizes(x, "silu"), made.layer(index).sizes(x, "silu"))
        assert torch.equal(back.layer(index).cuts, made.layer(index).cuts)
    ids = next(corpus.batches(1)).ids[:, :12]
    texts = []
    for predictor in (made, back):
        with accelerate(loaded.model, thresholds, predictor=predictor, measure=False) as fast:
            texts.append(generate_greedily(fast.model, ids))
    assert torch.equal(*texts)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("gate_codes", lambda array: array[:-1]),
        ("gate_codes", lambda array: array[:, :-1]),
        ("gate_codes", lambda array: array.astype("float32")),
        ("gate_scales", lambda array: array[:, :0]),
        ("cuts", lambda array: array[:1]),
        ("cuts", lambda array: array.astype("float64")),
        ("cuts", lambda array: array.reshape(1, -1)),
    ],
)
def test_arrays_of_another_form_do_not_reach_a_kernel(name, change):
    loaded, corpus, thresholds = tiny()
    predictor = calibrate_predictor(loaded, corpus, thresholds, tokens=64)
    layers = tuple(layer | {name: change(layer[name])} for layer in predictor.layers)
    with pytest.raises(InputError, match="layer 0 of the predictor is damaged"):
        dataclasses.replace(predictor, layers=layers).layer(0)


@pytest.mark.parametrize(
    "change", [{"bits": 3}, {"bits": 8}, {"predictor_kind": "x"}, {"predictor_kind": "low_rank"}]
)
def test_another_kind_or_number_of_bits_does_not_reach_a_kernel(change):
    loaded, corpus, thresholds = tiny()
    predictor = calibrate_predictor(loaded, corpus, thresholds, tokens=64)
    with pytest.raises(InputError, match="the predictor is damaged"):
        dataclasses.replace(predictor, **change).layer(0)


def test_a_predictor_of_a_smaller_block_does_not_reach_a_kernel():
    loaded, corpus, thresholds = tiny()
    layer = calibrate_predictor(loaded, corpus, thresholds, tokens=64).layer(0)
    half = dataclasses.replace(
        layer, gate_codes=layer.gate_codes[:8], gate_scales=layer.gate_scales[:8], cuts=layer.cuts[:8]
    )
    with pytest.raises(InputError, match="calibrate a predictor for this model"):
        half.check_fits(len(layer.cuts), 128)


def test_memory_with_a_predictor_is_within_fifteen_percent():
    loaded, corpus, thresholds = demo("silu")
    predictor = calibrate_predictor(loaded, corpus, thresholds, tokens=256)
    whole = sum(p.numel() * p.element_size() for p in loaded.model.parameters())
    with accelerate(loaded.model, thresholds, predictor=predictor, measure=False) as fast:
        copies = sum(report.predictor_bytes for report in predictor.reports)
        assert fast.overhead_bytes == copies
        assert copies <= 0.15 * whole


def test_the_sample_has_a_fit_part_and_a_heldout_part():
    loaded, corpus, thresholds = tiny()
    sample = sample_corpus(loaded, corpus, thresholds, tokens=300)
    assert set(sample.fit) == set(range(len(loaded.sites)))
    assert 200 < sample.num_fit < 400
    assert sample.num_fit / sample.num_heldout == pytest.approx(3, rel=0.4)
    again = sample_corpus(loaded, corpus, thresholds, tokens=300)
    assert torch.equal(sample.fit[1], again.fit[1])
    single = dataclasses.replace(
        corpus, starts=corpus.starts[:1], lengths=corpus.lengths[:1], fresh=corpus.fresh[:1]
    )
    assert sample_corpus(loaded, single, thresholds, tokens=300).num_heldout > 0


def test_low_rank_learns_and_the_kernels_reject_it():
    loaded, corpus, thresholds = tiny()
    learned = calibrate_predictor(loaded, corpus, thresholds, kind="low_rank", recall=0.95, tokens=1024)
    report = learned.reports[0]
    assert report.recall > 0.8
    assert report.predicted_ratio < 0.95
    with pytest.raises(InputError, match="the kernels take a quantised predictor"):
        accelerate(loaded.model, thresholds, predictor=learned, measure=False)


def test_invalid_arguments_are_rejected():
    loaded, corpus, thresholds = tiny()
    wrong = [
        ({"bits": 3}, "bits must be"),
        ({"recall": 1.5}, "recall must be"),
        ({"kind": "oracle"}, "kind must be"),
    ]
    for options, message in wrong:
        with pytest.raises(InputError, match=message):
            calibrate_predictor(loaded, corpus, thresholds, **options)
    made = calibrate_predictor(loaded, corpus, thresholds, tokens=200)
    other = dataclasses.replace(thresholds, values=tuple(2 * value for value in thresholds.numbers))
    with pytest.raises(InputError, match="other thresholds"):
        accelerate(loaded.model, other, predictor=made)
    huge = dataclasses.replace(thresholds, values=(1e9,) * len(thresholds.values))
    with pytest.raises(InputError, match="no neuron is active"):
        calibrate_predictor(loaded, corpus, huge)


def test_a_pass_leaves_no_hooks():
    loaded, corpus, thresholds = tiny()
    made = calibrate_predictor(loaded, corpus, thresholds, tokens=200)
    predictor_effect(loaded, corpus, made)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in loaded.model.modules())
    mask = PredictedMask(loaded, made)
    with inputs_tapped(loaded.sites, mask.on_input):
        result = run_pass(loaded, corpus, LossOnly(), mask, key="")
    assert result.nll.sum() > 0
