"""Distances between corpora and models, and the token scatter, for numbers worked out by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from sparsing.errors import InputError
from sparsing.neurons.study import NeuronStudy, study_neurons
from sparsing.neurons.study_comparison import frequency_distances, token_scatter
from sparsing.rules.thresholds import Thresholds

from ..helpers.measuring import text_corpus, tiny_loaded


@pytest.fixture(scope="module")
def study() -> NeuronStudy:
    cuts = Thresholds(rule="cett", level=0.1, on="neuron_norm", values=(0.03, 0.05))
    return study_neurons(tiny_loaded(), {"a": text_corpus(60), "b": text_corpus(60, seed=1)}, cuts)


def test_distances_within_and_between_models(study):
    first = dataclasses.replace(
        study, frequency=np.array([[[0.0, 0.2, 0.4, np.nan]], [[0.4, 0.2, 0.0, np.nan]]])
    )
    second = dataclasses.replace(study, frequency=np.array([[[0.1, 0.3, 0.5]]]), corpora=("a",))
    distances = {(d.first, d.second): d for d in frequency_distances({"one": first, "two": second})}
    assert set(distances) == {("one, a", "one, b"), ("one, a", "two, a")}
    within = distances["one, a", "one, b"]
    assert within.wasserstein == pytest.approx(0)
    assert within.mean_difference == pytest.approx(0.8 / 3)
    assert within.correlation == pytest.approx(-1)
    between = distances["one, a", "two, a"]
    assert between.wasserstein == pytest.approx(0.1)
    assert between.mean_difference is None


def test_token_scatter(study):
    count = np.array([50, 5, 20, 30, 0])
    ratio = np.array([0.1, 0.9, 0.2, 0.4, np.nan], np.float32)
    first = dataclasses.replace(study, vocabulary_count=count, vocabulary_ratio=ratio)
    second = dataclasses.replace(
        study, vocabulary_count=np.append(count + 1, 7), vocabulary_ratio=np.append(2 * ratio, 1)
    )
    scatter = token_scatter(first, second)
    assert scatter.ids.tolist() == [0, 3, 2]
    assert scatter.count.tolist() == [50, 30, 20]
    assert scatter.pearson == pytest.approx(1)
    assert scatter.spearman == pytest.approx(1)
    assert scatter.second == pytest.approx(2 * scatter.first)
    with pytest.raises(InputError, match="only 0 vocabulary items occur 60 times"):
        token_scatter(first, second, min_count=60)
    with pytest.raises(InputError, match="different vocabularies"):
        token_scatter(first, dataclasses.replace(second, tokenizer_sha256="other"))
