"""Charts of studies of neurons: frequency by corpus, corpora against each other, two models token by token."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from sparsing.errors import InputError
from sparsing.report.chart import Axis, Chart, Series, thinned_indices
from sparsing.report.charts.measurement_charts import DEAD_MARK, RARE_BELOW, frequency_curve
from sparsing.report.text_view import page_text

if TYPE_CHECKING:
    from sparsing.neurons.study import NeuronStudy

CORPUS_POINTS = 240
"""Points of each frequency curve."""
SCATTER_POINTS = 1500
"""Points of a scatter chart, of all its series together."""


def corpus_curves(name: str, study: NeuronStudy) -> Chart:
    """Sorted frequencies of all neurons, a line per corpus."""
    return Chart(
        title=f"How often neurons are active, by corpus: {name}",
        note="All neurons of all layers, from the most to the least active in each corpus.",
        x=Axis(label="rank of the neuron, share of all", low=0.0, high=1.0),
        y=Axis(label="share of tokens where active", scales=("linear", "log")),
        series=[
            frequency_curve(corpus, frequency, most=CORPUS_POINTS)
            for corpus, frequency in zip(study.corpora, study.frequency, strict=True)
        ],
        marks=[DEAD_MARK] if np.nanmin(study.frequency) < RARE_BELOW else [],
    )


def corpus_scatter(name: str, study: NeuronStudy) -> Chart | None:
    """Every neuron's frequency in each other corpus against the first corpus; None if there is one corpus."""
    if len(study.corpora) < 2:
        return None
    first = study.frequency[0].ravel()
    neurons = np.flatnonzero(np.isfinite(first))
    neurons = neurons[thinned_indices(len(neurons), SCATTER_POINTS // (len(study.corpora) - 1))]
    width = study.mean_norm.shape[1]
    names = study.site_names
    labels = [f"neuron {names[number // width].neuron(number % width)}" for number in neurons.tolist()]
    return Chart(
        title=f"The same neurons in other corpora: {name}",
        note=f"One point per neuron. A neuron on the diagonal is active as often as in {study.corpora[0]}.",
        x=Axis(label=f"frequency in {study.corpora[0]}"),
        y=Axis(label="frequency in the other corpus"),
        series=[
            Series(name=corpus, x=first[neurons], y=frequency.ravel()[neurons], text=labels, mode="points")
            for corpus, frequency in zip(study.corpora[1:], study.frequency[1:], strict=True)
        ],
        diagonal=True,
    )


def token_scatters(studies: Mapping[str, NeuronStudy], words: Mapping[str, Mapping[int, str]]) -> list[Chart]:
    """Mean activation ratio token by token, for each pair of models with the same vocabulary.

    Args:
        words: Text of each token id, by study.
    """
    from sparsing.neurons.study_comparison import token_scatter

    charts = []
    for (a, first), (b, second) in itertools.combinations(studies.items(), 2):
        try:
            scatter = token_scatter(first, second)
        except InputError:
            continue  # different vocabularies, or too few tokens in common
        kept = thinned_indices(len(scatter.ids), SCATTER_POINTS)
        text = [
            f"{page_text(words[a].get(int(token), '')) or '(bytes)'}, seen {count:,} times"
            for token, count in zip(scatter.ids[kept], scatter.count[kept], strict=True)
        ]
        points = Series(
            name="vocabulary items",
            x=scatter.first[kept],
            y=scatter.second[kept],
            text=text,
            mode="points",
        )
        charts.append(
            Chart(
                title=f"Token by token: {a} and {b}",
                note="One point per vocabulary item: its mean activation ratio over layers and positions."
                f" Pearson {scatter.pearson:.3f}, Spearman {scatter.spearman:.3f}, {len(scatter.ids):,} items.",
                x=Axis(label=f"activation ratio, {a}"),
                y=Axis(label=f"activation ratio, {b}"),
                series=[points],
                diagonal=True,
            )
        )
    return charts
