"""The tables of a study: a row per neuron whose contexts are the text at their places."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from sparsing.neurons.store import TOKENS_AFTER, TOKENS_BEFORE, context_text, save_vocabulary, write_study
from sparsing.neurons.study import NeuronStudy
from sparsing.report.neuron_view import neuron_view
from sparsing.rules.thresholds import Thresholds
from sparsing.text.corpus import load_corpus

from ..helpers.measuring import loaded, random_text, text_corpus, tiny_loaded
from ..helpers.tiny import tiny_tokenizer
from ..helpers.tiny_experts import D_EXPERT, build_experts

CUTS = Thresholds(rule="cett", level=0.1, on="neuron_norm", values=(0.03, 0.05))


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The study, the rows of its neuron table, and its folder."""
    folder = tmp_path_factory.mktemp("study")
    model = tiny_loaded()
    corpora = {"a": text_corpus(200, window=40, bos="always"), "b": text_corpus(90, window=40, seed=1)}
    study = write_study(model, corpora, folder, thresholds=CUTS, contexts=3)
    return study, pq.read_table(folder / "neurons.parquet").to_pylist(), folder


def test_a_row_per_neuron_with_the_numbers_of_the_study(stored):
    study, rows, folder = stored
    n_layers, d_ff = study.mean_norm.shape
    assert [(row["layer"], row["neuron"]) for row in rows] == [
        (i, j) for i in range(n_layers) for j in range(d_ff)
    ]
    assert pq.ParquetFile(folder / "neurons.parquet").num_row_groups == n_layers
    for row in rows[:: d_ff // 3]:
        at = (row["layer"], row["neuron"])
        assert row["frequency: b"] == study.frequency[1][at]
        assert row["max_norm"] == study.max_norm[at]
        assert row["neighbours"] == study.neighbour[at].tolist()
        assert len(row["promoted"]) == len(row["demoted"]) == 6


def test_contexts_occur_in_the_text_and_the_first_has_the_largest_norm(stored):
    _, rows, _ = stored
    texts = {"a": random_text(200), "b": random_text(90, seed=1)}
    for row in rows:
        assert 1 <= len(row["contexts"]) <= 3
        assert abs(row["contexts"][0]["value"]) == pytest.approx(row["max_norm"], rel=1e-5)
        for context in row["contexts"]:
            assert len(context["token"]) == 1
            assert len(context["before"]) <= TOKENS_BEFORE
            assert len(context["after"]) <= TOKENS_AFTER
            assert context["before"] + context["token"] + context["after"] in texts[context["corpus"]]


def test_context_text_stays_in_its_window():
    tokenizer = tiny_tokenizer()
    corpus = load_corpus(["abcdefghijklmnopqrstuvwxyz"], tokenizer, window=11, bos="always")
    width = corpus.width
    assert context_text(corpus, width + 1, tokenizer) == ("", "k", "lmnopqrs")
    assert context_text(corpus, width + 10, tokenizer) == ("klmnopqrs", "t", "")
    assert context_text(corpus, 0, tokenizer) == ("", "<s>", "abcdefgh")


def test_a_failed_study_leaves_no_table(tmp_path, monkeypatch):
    def fail(self, index, layer):
        raise KeyboardInterrupt

    monkeypatch.setattr("sparsing.neurons.store.NeuronTable.add", fail)
    with pytest.raises(KeyboardInterrupt):
        write_study(tiny_loaded(), {"a": text_corpus(60)}, tmp_path, thresholds=CUTS)
    assert {path.name for path in tmp_path.iterdir()} <= {".journal", ".lock", "run.json"}


def test_a_finished_study_leaves_no_journal(stored):
    _, _, folder = stored
    assert sorted(path.name for path in folder.iterdir()) == [
        ".lock",
        "neurons.json",
        "neurons.parquet",
        "neurons.safetensors",
        "run.json",
        "vocabulary.parquet",
    ]


def test_vocabulary(stored, tmp_path):
    study, _, _ = stored
    path = save_vocabulary(study, tiny_tokenizer(), tmp_path / "vocabulary.parquet")
    rows = {row["text"]: row for row in pq.read_table(path).to_pylist()}
    text = random_text(200) + random_text(90, seed=1)
    assert {token: row["count"] for token, row in rows.items()} == {
        char: text.count(char) for char in set(text)
    }
    assert all(np.isfinite(row["activation_ratio"]) for row in rows.values())


def test_neurons_have_the_names_that_the_page_shows(tmp_path):
    """`layer.expert.index` for routed experts; the layer is the number of the model."""
    model = loaded(build_experts("glm4_moe"))
    write_study(
        model,
        {"a": text_corpus(60)},
        tmp_path,
        thresholds=Thresholds(rule="cett", level=0.1, on="neuron_norm", values=(0.02,) * 3),
    )
    rows = pq.read_table(
        tmp_path / "neurons.parquet", columns=["name", "site", "layer", "neuron"]
    ).to_pylist()
    named = {row["name"]: row for row in rows}
    assert len(named) == len(rows) == sum(site.n_neurons for site in model.sites)
    assert named["1.2.3"] == {
        "name": "1.2.3",
        "site": "model.layers.1.mlp.experts",
        "layer": 1,
        "neuron": 2 * D_EXPERT + 3,
    }
    assert named["1.shared_experts.7"]["site"] == "model.layers.1.mlp.shared_experts.down_proj"
    assert named["0.mlp.7"]["layer"] == 0
    view = neuron_view(NeuronStudy.load(tmp_path / "neurons.json"), tmp_path / "neurons.parquet")
    assert set(view["name"]) == set(named)
    near = [name for row in view["details"].values() for name, _ in row["near"]]
    assert near
    assert set(near) <= set(named)
