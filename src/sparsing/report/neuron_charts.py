"""Charts of studies of neurons: frequency by corpus, corpora against each other, two models token by token."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from sparsing.errors import InputError
from sparsing.report.charts import Chart, Mark, Series, thinned
from sparsing.report.measurement_tables import Rows
from sparsing.report.run_charts import DEAD_BELOW
from sparsing.report.text_view import shown

if TYPE_CHECKING:
    from sparsing.neurons.study import NeuronStudy

CURVE_POINTS = 240
SCATTER_POINTS = 1500


def corpus_curves(name: str, study: NeuronStudy) -> Chart:
    """Sorted frequencies of all neurons, a line per corpus."""
    series = []
    for corpus, frequency in zip(study.corpora, study.frequency, strict=True):
        values = np.sort(frequency[np.isfinite(frequency)])[::-1]
        at = thinned(len(values), CURVE_POINTS)
        rank = (at + 0.5) / len(values)
        series.append(Series(name=corpus, x=rank.tolist(), y=values[at], mode="lines"))
    return Chart(
        title=f"How often neurons fire, by corpus: {name}",
        note="All neurons of all layers, from the most to the least active in each corpus.",
        x="rank of the neuron, share of all",
        y="share of tokens where active",
        series=series,
        marks=[Mark(at=DEAD_BELOW, label="dead below 0.1%")],
        y_scales=("linear", "log"),
    )


def corpus_scatter(name: str, study: NeuronStudy) -> Chart | None:
    """Every neuron's frequency in the first corpus against each other one; None for one corpus."""
    if len(study.corpora) < 2:
        return None
    first = study.frequency[0].ravel()
    real = np.flatnonzero(np.isfinite(first))
    real = real[thinned(len(real), SCATTER_POINTS // (len(study.corpora) - 1))]
    width = study.mean_norm.shape[1]
    labels = [f"layer {at // width}, neuron {at % width}" for at in real.tolist()]
    return Chart(
        title=f"The same neurons in other corpora: {name}",
        note=f"A point per neuron; on the diagonal it fires as often as in {study.corpora[0]}.",
        x=f"frequency in {study.corpora[0]}",
        y="frequency in the other corpus",
        series=[
            Series(name=corpus, x=first[real], y=frequency.ravel()[real], text=labels, mode="points")
            for corpus, frequency in zip(study.corpora[1:], study.frequency[1:], strict=True)
        ],
        square=True,
    )


def token_scatters(studies: Mapping[str, NeuronStudy], words: Mapping[str, Mapping[int, str]]) -> list[Chart]:
    """Mean activation ratio token by token, for each pair of models with the same vocabulary.

    Args:
        words: Texts of token ids, by study.
    """
    from sparsing.neurons.study_comparison import token_scatter

    charts = []
    for (a, first), (b, second) in itertools.combinations(studies.items(), 2):
        try:
            found = token_scatter(first, second)
        except InputError:
            continue  # another vocabulary, or too few tokens in common
        at = thinned(len(found.ids), SCATTER_POINTS)
        text = [
            f"{shown(words[a].get(int(token), '')) or '(bytes)'}, seen {count:,} times"
            for token, count in zip(found.ids[at], found.count[at], strict=True)
        ]
        charts.append(
            Chart(
                title=f"Token by token: {a} and {b}",
                note="A point per vocabulary item: its mean activation ratio over layers and places."
                f" Pearson {found.pearson:.3f}, Spearman {found.spearman:.3f}, {len(found.ids):,} items.",
                x=f"activation ratio, {a}",
                y=f"activation ratio, {b}",
                series=[
                    Series(
                        name="vocabulary items",
                        x=found.first[at],
                        y=found.second[at],
                        text=text,
                        mode="points",
                    )
                ],
                square=True,
            )
        )
    return charts


def distance_table(studies: Mapping[str, NeuronStudy]) -> Rows:
    """How far apart firing is between corpora and between models; the farthest first."""
    from sparsing.neurons.study_comparison import distances

    header = ["between", "and", "distance of the curves", "mean difference per neuron", "rank correlation"]
    found = sorted(distances(studies), key=lambda distance: -distance.wasserstein)
    return header, [
        [d.first, d.second, f"{d.wasserstein:.4f}", _number(d.mean_difference), _number(d.correlation)]
        for d in found
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
