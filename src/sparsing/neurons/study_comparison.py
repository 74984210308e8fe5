"""Studies against each other: how far apart firing is between corpora and between models, token by token.

Neurons of one model are compared one by one; neurons of two models have nothing to do with each other, so there
it is the distributions of frequency that are compared, and the mean activation ratio of each vocabulary item
(Sparsing Law, section 5: the points of two scales lie along the diagonal).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping

import numpy as np

from sparsing.base.results import Result
from sparsing.errors import InputError
from sparsing.neurons.study import NeuronStudy

MIN_COUNT = 10
"""A vocabulary item seen less often in either model's corpus has no mean worth comparing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distance(Result):
    """Between the firing frequencies of two corpora, of one model or of two."""

    kind = "study_distance"

    first: str
    """`model, corpus`."""
    second: str
    wasserstein: float
    """Between the distributions of frequency over neurons: mean distance of the sorted curves, in [0, 1]."""
    mean_difference: float | None
    """Mean `|f_first - f_second|` neuron by neuron; None for two models."""
    correlation: float | None
    """Spearman, neuron by neuron; None for two models."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TokenScatter(Result):
    """Mean activation ratio of each vocabulary item in two models."""

    kind = "token_scatter"

    ids: np.ndarray
    """Items seen often enough in both, the most frequent first."""
    first: np.ndarray
    """Mean ratio in the first model, same shape."""
    second: np.ndarray
    count: np.ndarray
    """How often the item was seen, the lesser of the two."""
    pearson: float
    spearman: float


def distances(studies: Mapping[str, NeuronStudy]) -> list[Distance]:
    """Every pair of a model's corpora, and of two models on the corpus of the same name."""
    from scipy.stats import wasserstein_distance

    rows = {
        (model, corpus): study.frequency[index]
        for model, study in studies.items()
        for index, corpus in enumerate(study.corpora)
    }
    found = []
    for (a, first), (b, second) in itertools.combinations(rows.items(), 2):
        same_model = a[0] == b[0]
        if not same_model and a[1] != b[1]:
            continue
        real = [row[np.isfinite(row)] for row in (first, second)]
        found.append(
            Distance(
                first=", ".join(a),
                second=", ".join(b),
                wasserstein=float(wasserstein_distance(*real)),
                mean_difference=float(np.abs(real[0] - real[1]).mean()) if same_model else None,
                correlation=_spearman(*real) if same_model else None,
            )
        )
    return found


def token_scatter(first: NeuronStudy, second: NeuronStudy, *, min_count: int = MIN_COUNT) -> TokenScatter:
    """Mean activation ratios of the vocabulary items that both have seen at least `min_count` times.

    Raises:
        InputError: other vocabularies, or fewer than three such items.
    """
    if first.tokenizer_sha256 != second.tokenizer_sha256:
        raise InputError("the two models have different vocabularies; only tokens they share can be compared")
    size = min(len(first.vocabulary_count), len(second.vocabulary_count))  # either may be padded
    count = np.minimum(first.vocabulary_count[:size], second.vocabulary_count[:size])
    ids = np.flatnonzero(count >= min_count)
    if len(ids) < 3:
        raise InputError(
            f"only {len(ids)} vocabulary items were seen {min_count} times in both; run on more text"
        )
    ids = ids[np.argsort(-count[ids], kind="stable")]
    x, y = first.vocabulary_ratio[ids], second.vocabulary_ratio[ids]
    return TokenScatter(
        ids=ids,
        first=x,
        second=y,
        count=count[ids],
        pearson=float(np.corrcoef(x, y)[0, 1]),
        spearman=_spearman(x, y),
    )


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    from scipy.stats import rankdata

    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])
