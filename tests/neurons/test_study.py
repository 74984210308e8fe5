"""The numbers of a study against all activations, and equal numbers after an interruption."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sparsing.neurons.study
from sparsing.errors import InputError
from sparsing.measuring.journal import Journal
from sparsing.neurons.default_thresholds import learn_thresholds
from sparsing.neurons.study import NeuronStudy, study_neurons
from sparsing.rules.thresholds import Thresholds

from ..helpers.explicit_experts import explicit_rows
from ..helpers.measuring import (
    counted_places,
    kept_activations,
    loaded,
    score_of,
    text_corpus,
    tiny_loaded,
    trained,
)
from ..helpers.tiny_experts import build_experts

VALUES = (0.03, 0.05)


def cuts(on: str = "neuron_norm") -> Thresholds:
    return Thresholds(rule="cett", level=0.1, on=on, values=VALUES)


@pytest.mark.parametrize("on", ["neuron_norm", "gate"])
@pytest.mark.parametrize("model_type", ["llama", "gpt2", "phi3"])
def test_frequency_norms_and_vocabulary(model_type, on):
    model = tiny_loaded(model_type)
    corpora = {
        "a": text_corpus(210, window=32, seed=1, bos="always"),
        "b": text_corpus(90, window=32, seed=2),
    }
    study = study_neurons(model, corpora, cuts(on), batch_size=2)
    active, norms = [], []
    for corpus in corpora.values():
        kept = kept_activations(model, corpus)
        active.append([score_of(model, i, on, *kept[i]) > VALUES[i] for i in range(2)])
        norms.append([score_of(model, i, "neuron_norm", *kept[i]) for i in range(2)])
    for index, part in enumerate(active):
        wanted = np.stack([layer.double().mean(0).numpy() for layer in part])
        np.testing.assert_allclose(study.frequency[index], wanted, atol=2 / 90)
    for layer in range(2):
        both = torch.cat([part[layer] for part in norms])
        np.testing.assert_allclose(study.mean_norm[layer], both.mean(0), rtol=1e-3)
        np.testing.assert_allclose(study.max_norm[layer], both.amax(0), rtol=1e-3)
    ids = np.concatenate([corpus.ids[counted_places(corpus)] for corpus in corpora.values()])
    ratio = np.concatenate([torch.stack(part).double().mean((0, 2)).numpy() for part in active])
    assert study.vocabulary_count.sum() == 300 == sum(study.num_tokens)
    for token in (ids[0], ids[100], ids[-1]):
        assert study.vocabulary_count[token] == (ids == token).sum()
        assert study.vocabulary_ratio[token] == pytest.approx(ratio[ids == token].mean(), abs=0.01)
    assert np.isnan(study.vocabulary_ratio[study.vocabulary_count == 0]).all()


def test_saved_and_loaded(tmp_path):
    study = study_neurons(tiny_loaded(), {"a": text_corpus(60)}, cuts())
    again = NeuronStudy.load(study.save(tmp_path / "neurons.json"))
    assert again.to_dict() == study.to_dict()
    assert np.isnan(again.specialisation).all(), "one corpus has no specialisation"


def test_an_interrupted_study_resumes_to_the_same_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr("sparsing.measuring.journal.SAVE_EVERY_SEC", 0.0)
    model, corpora = tiny_loaded(), {"a": text_corpus(400), "b": text_corpus(300, seed=3)}
    whole = study_neurons(model, corpora, cuts(), batch_size=2)
    count = sparsing.neurons.study.NeuronObserver._count_vocabulary
    left = iter([True] * 9)

    def stop(self):
        if next(left, None) is None:
            raise KeyboardInterrupt
        count(self)

    def journals():
        return {name: Journal(tmp_path, {"corpus": corpus.sha256()}) for name, corpus in corpora.items()}

    with monkeypatch.context() as patch:
        patch.setattr(sparsing.neurons.study.NeuronObserver, "_count_vocabulary", stop)
        with pytest.raises(KeyboardInterrupt):
            study_neurons(model, corpora, cuts(), batch_size=2, journals=journals())
    assert len(list(tmp_path.glob("*/*.safetensors"))) == 2, "one corpus done, one begun"
    resumed = study_neurons(model, corpora, cuts(), batch_size=2, journals=journals())
    for name in ("frequency", "mean_norm", "max_norm", "neighbour", "vocabulary_ratio"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(whole, name))


def test_specialisation():
    study = study_neurons(tiny_loaded(), {"a": text_corpus(60), "b": text_corpus(60, seed=1)}, cuts())
    object.__setattr__(study, "frequency", np.array([[[0.5, 0.5, 0.0, 0.3]], [[0.5, 0.0, 0.0, 0.1]]]))
    special = study.specialisation[0]
    assert special[:2] == pytest.approx([0.0, 1.0])
    assert np.isnan(special[2])
    assert special[3] == pytest.approx(1 - (-0.75 * np.log2(0.75) - 0.25 * np.log2(0.25)))


def test_thresholds_are_learned_where_none_are_given():
    model, corpus = trained(), text_corpus(900)
    learned = learn_thresholds(model, corpus, 0.3)
    study = study_neurons(model, {"a": corpus}, cett=0.3)
    assert study.thresholds.values == learned.values
    assert 0 < study.overall_frequency.mean() < 1


def test_refusals():
    model = tiny_loaded()
    with pytest.raises(
        InputError, match="a study needs a corpus and at least 1 context, got 0 corpora and 8 contexts"
    ):
        study_neurons(model, {}, cuts())
    with pytest.raises(InputError, match="3 thresholds for a model of 2"):
        study_neurons(
            model, {"a": text_corpus(60)}, Thresholds(rule="cett", level=0.1, on="h", values=(0.1,) * 3)
        )


@pytest.mark.parametrize("model_type", ["glm4_moe", "gpt_oss", "llama4_text"])
def test_neurons_of_routed_experts(model_type):
    """Frequency, norms and contexts of each neuron against explicit experts, token by token."""
    model = loaded(build_experts(model_type))
    corpus = text_corpus(90, window=30)
    cut = 0.02
    cuts = Thresholds(rule="cett", level=0.1, on="neuron_norm", values=(cut,) * len(model.sites))
    study = study_neurons(model, {"a": corpus}, cuts, batch_size=2)
    routed = [(index, site) for index, site in enumerate(model.sites) if site.kind == "expert"]
    norms = {index: np.zeros((90, site.n_experts, site.d_ff)) for index, site in routed}
    for window, batch in enumerate(corpus.batches(1)):
        with explicit_rows(model.model, [site for _, site in routed]) as rows, torch.no_grad():
            model.model(batch.ids)
        for index, site in routed:
            columns = site.weight.detach().pow(2).sum(-2).sqrt()
            for (token, expert), (_, h, weight, _) in rows[site.name].items():
                norms[index][window * 30 + token, expert] = h.abs() * columns[expert] * weight
    for index, site in routed:
        flat = norms[index].reshape(90, -1)
        width = flat.shape[1]
        np.testing.assert_array_equal(study.frequency[0, index, :width], np.float32((flat > cut).mean(0)))
        np.testing.assert_allclose(study.mean_norm[index, :width], flat.mean(0), rtol=1e-5)
        np.testing.assert_allclose(study.max_norm[index, :width], flat.max(0), rtol=1e-5, atol=1e-9)
        name = study.site_names[index]
        assert name.neuron(2 * site.d_ff + 3) == f"{site.layer}.2.3"
        near = study.neighbour[index, :width]
        assert (near // site.d_ff == np.arange(width)[:, None] // site.d_ff)[near >= 0].all(), (
            "of its own expert"
        )
    assert study.sites == tuple(site.name for site in model.sites)
    assert set(study.d_expert) == {site.name for _, site in routed}
