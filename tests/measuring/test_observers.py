"""What a sparse pass adds up, against a run that keeps every activation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparsing.measuring._measure import measure
from sparsing.measuring.observers import DenseErrorObserver, SparseObserver
from sparsing.measuring.passes import LossOnly, PassSettings, run_pass
from sparsing.measuring.subject import Subject
from sparsing.models.loading import LoadedModel
from sparsing.rules.mask import Mask, sparsify
from sparsing.rules.thresholds import Thresholds
from sparsing.sites.tap import tapped
from sparsing.text.corpus import Corpus

from ..helpers.measuring import direct_cett, kept_activations, score_of, text_corpus, tiny_loaded

VALUES = (0.03, 0.05)


def cuts(on: str = "neuron_norm", values=VALUES, select: str = "above") -> Thresholds:
    return Thresholds(rule="cett", level=0.1, on=on, values=values, select=select)


def kept_sparse(model: LoadedModel, corpus: Corpus, thresholds: Thresholds):
    """`(gate, h)` of each layer at the counted tokens, every layer behind sparse ones; hooks read before the mask."""
    kept = [[] for _ in model.sites]
    with torch.no_grad():
        for batch in corpus.batches(1):

            def keep(index, rows, counted=batch.counted[0]):
                kept[index].append((rows.gate[counted], rows.h[counted]))

            with tapped(model.sites, keep, gate=True), sparsify(model.model, thresholds):
                model.model(input_ids=batch.ids)
    return [tuple(torch.cat(part) for part in zip(*layer, strict=True)) for layer in kept]


def run(model, corpus, observer, mask=None, *, head=True, **settings):
    return run_pass(model, corpus, observer, mask, key="k", settings=PassSettings(**settings), head=head)


def run_sparse(model, corpus, thresholds, **settings):
    mask = Mask(model.sites, thresholds)
    return run(model, corpus, SparseObserver(model.sites, corpus), mask, **settings).totals


def run_dense_error(model, corpus, thresholds, **options):
    return run(model, corpus, DenseErrorObserver(model.sites, [thresholds]), **options).totals


@pytest.mark.parametrize("on", ["neuron_norm", "gate"])
@pytest.mark.parametrize("model_type", ["llama", "phi3", "opt", "gpt2", "falcon"])
def test_both_realised_errors_and_every_count(model_type, on):
    model, corpus = tiny_loaded(model_type), text_corpus(130, window=24, stride=17, bos="always")
    thresholds = cuts(on)
    sparse = run_sparse(model, corpus, thresholds, batch_size=3)
    dense = run_dense_error(model, corpus, thresholds, batch_size=3, head=False)
    assert sparse.tokens.sum() == corpus.num_tokens == 130
    for layer in range(2):
        weight = model.sites[layer].weight
        for kept, found in (
            (kept_activations(model, corpus), dense.cett),
            (kept_sparse(model, corpus, thresholds), sparse.cett),
        ):
            gate, h = kept[layer]
            active = score_of(model, layer, on, gate, h) > VALUES[layer]
            wanted = direct_cett(h, active, weight).mean().item()
            assert found[layer].item() / 130 == pytest.approx(wanted, rel=1e-3)
        assert sparse.active[layer].sum().item() == pytest.approx(active.sum().item(), abs=2)
        assert (sparse.neuron[layer] - active.sum(0)).abs().sum() <= 2
        assert sparse.neuron[layer].sum() == sparse.active[layer].sum() == sparse.position[layer].sum()
    assert sparse.position_tokens.sum() == 130


def test_positions_and_the_shown_tokens():
    model, corpus = tiny_loaded(), text_corpus(70, window=32)
    totals = run_sparse(model, corpus, cuts(), batch_size=2)
    assert totals.position_tokens.tolist() == [3] * 6 + [2] * 26
    kept = kept_sparse(model, corpus, cuts())
    share = torch.stack(
        [(score_of(model, i, "neuron_norm", *kept[i]) > VALUES[i]).double().mean(-1) for i in range(2)],
        dim=1,
    )  # (tokens, n_layers)
    shown = torch.stack(totals.record.ratio, dim=-1)  # (windows, width, n_layers)
    np.testing.assert_allclose(shown.reshape(-1, 2)[:70], share, atol=0.011)
    for layer in range(2):
        norms = score_of(model, layer, "neuron_norm", *kept[layer]).topk(3)  # (tokens, 3)
        np.testing.assert_allclose(totals.record.norm[layer].reshape(-1, 3)[:70], norms.values, rtol=1e-4)
        assert (totals.record.neuron[layer].reshape(-1, 3)[:70] == norms.indices).double().mean() > 0.99

    for position in (0, 5, 6, 31):
        wanted = share[position::32].mean(1).sum().item()
        mean = sum(counts[position].item() for counts in totals.position) / 2 / model.sites[0].d_ff
        assert mean == pytest.approx(wanted, abs=0.02)


def test_only_the_first_windows_are_shown(monkeypatch):
    monkeypatch.setattr("sparsing.measuring.token_record.SHOWN_TOKENS", 33)
    model, corpus = tiny_loaded(), text_corpus(160, window=32)
    totals = run_sparse(model, corpus, cuts(), batch_size=3)
    for ratio in totals.record.ratio:
        assert ratio.shape == (2, 32)
        assert (ratio > 0).all()


def test_zero_thresholds_err_by_nothing_and_all_dropped_by_all():
    model, corpus = tiny_loaded(), text_corpus(64)
    for values, wanted in (((0.0, 0.0), 0.0), ((1e9, 1e9), 1.0)):
        for observed in (run_dense_error, run_sparse):
            totals = observed(model, corpus, cuts(values=values))
            assert totals.stacked_cett.numpy() / 64 == pytest.approx([wanted] * 2, abs=1e-7)


@pytest.mark.parametrize("model_type", ["opt", "gpt2"])
def test_the_bias_of_down_proj_is_left_out(model_type):
    """With a bias that dwarfs the output, an error that counted it would be near 0."""
    from ..helpers.measuring import loaded
    from ..helpers.tiny import build

    model, corpus = loaded(build(model_type)), text_corpus(64)
    plain = run_dense_error(model, corpus, cuts()).stacked_cett.numpy()
    model.sites[0].down_proj.bias.data.add_(1e3)
    shifted = run_dense_error(model, corpus, cuts()).stacked_cett.numpy()
    assert shifted[0] == pytest.approx(plain[0], rel=1e-3)


def test_a_dense_error_pass_leaves_the_model_dense():
    model, corpus = tiny_loaded(), text_corpus(64)
    plain = run(model, corpus, LossOnly(), Mask(model.sites, cuts(values=(0.0, 0.0))))
    watched = run(model, corpus, DenseErrorObserver(model.sites, [cuts()]))
    assert np.array_equal(plain.nll, watched.nll)


@pytest.mark.parametrize("select", ["above", "top_k", "top_k_sequence"])
def test_counting_does_not_change_what_is_measured(select):
    model, corpus = tiny_loaded(), text_corpus(100, window=24)
    thresholds = cuts("gate", (0.3, 0.2), select)
    masked = run(model, corpus, LossOnly(), Mask(model.sites, thresholds))
    counted = run(model, corpus, SparseObserver(model.sites, corpus), Mask(model.sites, thresholds))
    assert np.array_equal(masked.nll, counted.nll)


def test_top_k_over_a_sequence_counts_bos_but_no_padding():
    model, corpus = tiny_loaded(), text_corpus(50, window=21, bos="always", count_bos=True)
    thresholds = cuts("gate", (0.3, 0.3), "top_k_sequence")
    totals = run_sparse(model, corpus, thresholds, batch_size=4)
    assert totals.tokens.tolist() == [21, 21, 11]
    for active in totals.active:
        assert active.tolist() == [n * 96 - int(0.7 * n * 96) for n in totals.tokens.tolist()]


def test_the_error_of_linear_inputs_in_a_sparse_pass_rests_on_a_share_of_the_tokens(monkeypatch):
    corpus, scores = text_corpus(1200), ["x"]

    def found():
        return measure(Subject(tiny_loaded(), corpus, scores=scores), "quantile:x", level=0.6)

    few = found()
    monkeypatch.setattr("sparsing.measuring.observers.ERROR_SHARE", 1.0)
    every = found()
    assert few.ppl_ratio == every.ppl_ratio
    assert few.activation_ratio == every.activation_ratio
    assert few.cett_sparse_inputs != every.cett_sparse_inputs
    np.testing.assert_allclose(few.cett_sparse_inputs, every.cett_sparse_inputs, rtol=0.08)
    # the first linears see dense inputs also in the sparse pass, as `q_proj` of layer 0
    assert every.cett_sparse_inputs[0] == pytest.approx(every.cett_dense_inputs[0], rel=1e-5)
