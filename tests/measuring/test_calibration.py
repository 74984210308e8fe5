"""Calibration: the streamed curves equal brute force, and neither order nor batch size changes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsing.measuring.calibration
from sparsing.errors import InputError
from sparsing.measuring.calibration import _count_above, calibrate, in_sample
from sparsing.measuring.journal import Journal
from sparsing.measuring.observers import DenseErrorObserver
from sparsing.measuring.passes import PassSettings, run_pass
from sparsing.models.loading import LoadedModel
from sparsing.rules.curves import Curves, ScoreCurve
from sparsing.rules.scores import SCORES
from sparsing.rules.thresholds import Thresholds

from ..helpers.measuring import direct_cett, kept_activations, loaded, score_of, text_corpus, tiny_loaded
from ..helpers.tiny import build

ALL = ("neuron_norm", "gate", "h")
TARGETS = (0.02, 0.03, 0.1, 0.2, 0.35, 0.6, 0.9)


def curve(thresholds, cett) -> ScoreCurve:
    arrays = [np.array([row], dtype=float) for row in (thresholds, cett, np.zeros(len(cett)))]
    return ScoreCurve(on="h", thresholds=arrays[0], cett=arrays[1], ratio=arrays[2])


def realised(model, corpus, values, on: str = "neuron_norm") -> np.ndarray:
    thresholds = Thresholds(rule="cett", level=0.1, on=on, values=tuple(values))
    result = run_pass(model, corpus, DenseErrorObserver(model.sites, [thresholds]), key="e", head=False)
    return result.totals.stacked_cett.numpy()[:, 0] / corpus.num_tokens


def spiked(corpus) -> LoadedModel:
    """A model with a massive activation: one neuron of layer 0 is 1e5 at the first token of the corpus."""
    model = loaded(build("opt"))
    inputs: list[torch.Tensor] = []
    fc1 = model.model.model.decoder.layers[0].fc1
    handle = fc1.register_forward_hook(lambda module, args, output: inputs.append(args[0].clone()))
    with torch.no_grad():
        model.model(next(corpus.batches(1)).ids)
    handle.remove()
    x = inputs[0].reshape(-1, fc1.in_features)[0]
    fc1.weight.data[5] = 1e6 * x / x.pow(2).sum()
    fc1.bias.data[5] = -0.9e6
    return model


@pytest.mark.parametrize("model_type", ["llama", "phi3", "opt", "gpt2", "falcon"])
def test_the_curves_are_those_of_all_activations_kept(model_type):
    model, corpus = tiny_loaded(model_type), text_corpus(90, window=20, stride=13, bos="always")
    curves = calibrate(model, corpus, scores=ALL, settings=PassSettings(batch_size=2))
    assert curves.sampled_tokens == curves.num_tokens == 90
    for layer, (gate, h) in enumerate(kept_activations(model, corpus)):
        for name in ALL:
            size = score_of(model, layer, name, gate, h)
            found = curves[name]
            for point in range(0, found.thresholds.shape[1], 6):
                active = size > found.thresholds[layer, point]
                errors = direct_cett(h, active, model.sites[layer].weight)
                # a neuron within rounding of the cut may fall on either side
                assert found.ratio[layer, point] == pytest.approx(active.double().mean().item(), abs=1e-3)
                assert found.cett[layer, point] == pytest.approx(errors.mean().item(), rel=1e-3, abs=1e-6)


def test_the_dense_loss_is_learned_on_the_way():
    model, corpus = tiny_loaded(), text_corpus(120)
    curves = calibrate(model, corpus)
    nll, labels = 0.0, 0
    for batch in corpus.batches(1):
        with torch.no_grad():
            logs = model.model(batch.ids).logits[0].log_softmax(-1)
        nll -= logs[:-1].gather(-1, batch.ids[0, 1:, None]).sum().item()
        labels += batch.ids.shape[1] - 1
    assert curves.window_labels.sum() == labels
    assert curves.ppl == pytest.approx(np.exp(nll / labels), rel=1e-6)


@pytest.mark.parametrize(("on", "within"), [("neuron_norm", 0.01), ("gate", 0.03)])
@pytest.mark.parametrize("model_type", ["llama", "opt", "gpt2"])
def test_a_wanted_cett_is_met(model_type, on, within):
    # GELU is never below -0.17, so many |gate| lie just under 0.17: there the curve of the gate is steep
    model, corpus = tiny_loaded(model_type), text_corpus(600)
    curves = calibrate(model, corpus, scores=(on,))
    for target in TARGETS:
        found = realised(model, corpus, curves[on].threshold_at_cett(target), on)
        assert found == pytest.approx([target, target], rel=within)
    below = realised(model, corpus, curves[on].threshold_at_cett(0.005), on)  # by a straight line in the logs
    assert below == pytest.approx([0.005, 0.005], rel=0.15)


def test_a_wanted_cett_is_met_also_beside_a_neuron_that_towers_over_the_others():
    corpus = text_corpus(600)
    model = spiked(corpus)
    curves = calibrate(model, corpus)
    assert (kept_activations(model, corpus)[0][1] > 9e4).sum() == 1
    for target in (0.1, 0.2, 0.35):
        assert realised(model, corpus, curves["neuron_norm"].threshold_at_cett(target)) == pytest.approx(
            [target, target], rel=0.03
        )


def test_a_long_corpus_is_sampled_and_the_sample_stands_for_it(monkeypatch):
    monkeypatch.setattr(sparsing.measuring.calibration, "SAMPLE_TOKENS", 1000)
    model, corpus = tiny_loaded(), text_corpus(4000)
    curves = calibrate(model, corpus)
    assert curves.sampled_tokens == pytest.approx(1000, abs=120)
    for target in (0.05, 0.2, 0.5):
        found = realised(model, corpus, curves["neuron_norm"].threshold_at_cett(target))
        assert found == pytest.approx([target, target], rel=0.03)


@pytest.mark.parametrize(("model_type", "sampled"), [("llama", False), ("opt", False), ("llama", True)])
def test_order_and_batch_size_change_no_threshold(model_type, sampled, monkeypatch):
    if sampled:
        monkeypatch.setattr(sparsing.measuring.calibration, "SAMPLE_TOKENS", 300)
    corpus = text_corpus(500, window=24, stride=17)
    shuffled = corpus.part(np.random.default_rng(0).permutation(corpus.n_windows))
    model, scores = tiny_loaded(model_type), ("neuron_norm", "gate")
    base = calibrate(model, corpus, scores=scores, settings=PassSettings(batch_size=4))
    for other_corpus, batch_size in ((corpus, 1), (shuffled, 5), (shuffled, None)):
        other = calibrate(model, other_corpus, scores=scores, settings=PassSettings(batch_size=batch_size))
        assert other.sampled_tokens == base.sampled_tokens
        for name in scores:
            for target in (0.003, *TARGETS):
                found, wanted = (c[name].threshold_at_cett(target) for c in (other, base))
                np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_a_finished_calibration_is_taken_from_the_journal():
    model, corpus, journal = tiny_loaded(), text_corpus(100), Journal()
    first, again = (calibrate(model, corpus, settings=PassSettings(journal=journal)) for _ in range(2))
    assert np.array_equal(first["neuron_norm"].cett, again["neuron_norm"].cett)
    assert np.array_equal(first.window_nll, again.window_nll)


def test_a_layer_of_dead_neurons_and_a_layer_without_output():
    model = build("opt")
    layers = model.model.decoder.layers
    layers[0].fc1.bias.data.fill_(-1e3)  # ReLU gives zeros only
    layers[1].fc2.weight.data.zero_()
    dead = loaded(model)
    curves = calibrate(dead, text_corpus(100), scores=("neuron_norm", "gate"))
    for name in ("neuron_norm", "gate"):
        thresholds = curves[name].threshold_at_cett(0.2)
        assert np.isfinite(thresholds).all()
        assert (thresholds >= 0).all()
        assert np.isfinite(curves[name].cett).all()
    assert (curves["gate"].ratio[0] == 0).all()
    assert realised(dead, text_corpus(100), thresholds).tolist() == [0, 0]


def test_the_target_is_met_exactly_at_the_grid_and_zero_is_dense():
    made = curve([0.1, 0.2, 0.4, 0.8], [0.01, 0.1, 0.5, 1.0])
    for threshold, value in zip(made.thresholds[0], made.cett[0], strict=True):
        assert made.threshold_at_cett(value) == pytest.approx([threshold])
    assert made.threshold_at_cett(0.0).tolist() == [0.0]
    assert 0 < made.threshold_at_cett(1e-4)[0] < 0.1


def test_where_cett_is_not_monotone_the_first_crossing_is_taken():
    made = curve([0.1, 0.2, 0.4, 0.8, 1.6], [0.1, 0.6, 0.3, 0.7, 1.0])
    assert 0.1 < made.threshold_at_cett(0.5)[0] < 0.2
    assert 0.2 < made.threshold_at_cett(0.65)[0] < 0.8


values_lists = st.lists(st.floats(0, 1.5, allow_subnormal=False), min_size=1, max_size=12)


@settings(max_examples=300, deadline=None)
@given(values=values_lists, targets=st.lists(st.floats(0, 1.2), min_size=2, max_size=6))
def test_the_inverse_is_finite_and_rises_with_the_target_whatever_the_curve(values, targets):
    made = curve(np.geomspace(1e-3, 10, len(values)), values)
    found = [made.threshold_at_cett(target)[0] for target in sorted(targets)]
    assert np.isfinite(found).all()
    assert found == sorted(found)
    assert min(found) >= 0


def test_neighbouring_values_that_differ_in_the_last_bit():
    made = curve([0.1, 0.2, 0.4], [0.3, np.nextafter(0.3, 1), 0.5])
    assert 0.2 <= made.threshold_at_cett(0.4)[0] <= 0.4


@pytest.mark.parametrize("as_on_a_cpu", [True, False])
def test_sizes_above_thresholds_are_counted(as_on_a_cpu, monkeypatch):
    monkeypatch.setattr(sparsing.measuring.calibration, "on_cpu", lambda _: as_on_a_cpu)
    size = torch.tensor([[0.0, 0.5, 0.5, 2.0], [0.0, 0.6, 3.0, 0.0]])
    counts = _count_above(size, torch.tensor([0.0, 0.5, 0.5, 2.0, 9.0]))
    assert counts.tolist() == [5, 3, 3, 1, 0]
    assert counts.dtype == torch.float64


def test_a_score_without_a_curve_costs_no_product(monkeypatch):
    def fail(*_: object) -> None:
        raise AssertionError("a product that nothing reads")

    monkeypatch.setattr(sparsing.measuring.calibration, "site_norm", fail)
    assert calibrate(tiny_loaded(), text_corpus(100), scores=["pre_gate"]).scores == {}


def test_the_sample_is_a_fixed_share_of_all_places():
    place = torch.arange(-1, 200_000)
    for share in (1 / 32, 0.3):
        chosen = in_sample(place, share)
        assert chosen.double().mean().item() == pytest.approx(share, rel=0.05)
        assert torch.equal(chosen[1000:], in_sample(place[1000:], share))
        runs = (chosen[1:] & chosen[:-1]).double().mean().item()
        assert runs == pytest.approx(share**2, rel=0.35)
    assert in_sample(place, 1.0).all()


def test_saved_and_read_again(tmp_path):
    curves = calibrate(tiny_loaded(), text_corpus(100), scores=ALL)
    read = Curves.load(curves.save(tmp_path / "curves.json"))
    assert sorted(read.scores) == sorted(ALL)
    for name in ALL:
        for field in ("thresholds", "cett", "ratio"):
            assert np.array_equal(getattr(read[name], field), getattr(curves[name], field))
        assert read[name].on == name
    assert np.array_equal(read.window_nll, curves.window_nll)
    assert (read.d_ff, read.num_tokens, read.ppl) == (curves.d_ff, curves.num_tokens, curves.ppl)


def test_unknown_scores():
    with pytest.raises(InputError, match=r"Unknown score 'gat'\. Did you mean: gate\?"):
        calibrate(tiny_loaded(), text_corpus(60), scores=("gat",))
    assert set(ALL) < set(SCORES)
