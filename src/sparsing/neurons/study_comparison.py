"""Comparison of studies: distances of firing between corpora and models, and activation ratios token by token.

Neurons of one model are compared one by one. Neurons of two models do not correspond to each other, so two models are
compared by their distributions of firing frequency and by the mean activation ratio of each vocabulary item (Sparsing
Law, section 5: the points of two scales lie along the diagonal).
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
"""Vocabulary items that either corpus contains less often are left out, since their mean ratio is too noisy."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrequencyDistance(Result):
    """Distance between the firing frequencies in two corpora, of one model or of two."""

    kind = "study_distance"

    first: str
    """`model, corpus`."""
    second: str
    wasserstein: float
    """Distance of the distributions over neurons: the mean distance of the sorted frequencies, in [0, 1]."""
    mean_difference: float | None
    """Mean `|f_first - f_second|` over neurons; None for two models."""
    correlation: float | None
    """Spearman correlation over neurons; None for two models."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TokenScatter(Result):
    """Mean activation ratio of each vocabulary item in two models."""

    kind = "token_scatter"

    ids: np.ndarray
    """Items that occur often enough in both corpora, the most frequent first."""
    first: np.ndarray
    """Mean ratio in the first model, same shape."""
    second: np.ndarray
    count: np.ndarray
    """Occurrences of the item, the smaller number of the two."""
    pearson: float
    spearman: float


def frequency_distances(studies: Mapping[str, NeuronStudy]) -> list[FrequencyDistance]:
    """Distances between the corpora of each model, and between models on corpora of the same name.

    Args:
        studies: Studies by the name of their model.
    """
    from scipy.stats import wasserstein_distance

    rows = {
        (model, corpus): study.frequency[index]
        for model, study in studies.items()
        for index, corpus in enumerate(study.corpora)
    }
    distances = []
    for (a, first), (b, second) in itertools.combinations(rows.items(), 2):
        same_model = a[0] == b[0]
        if not same_model and a[1] != b[1]:
            continue
        x, y = first[np.isfinite(first)], second[np.isfinite(second)]  # NaN pads narrower layers
        distances.append(
            FrequencyDistance(
                first=", ".join(a),
                second=", ".join(b),
                wasserstein=float(wasserstein_distance(x, y)),
                mean_difference=float(np.abs(x - y).mean()) if same_model else None,
                correlation=_spearman(x, y) if same_model else None,
            )
        )
    return distances


def token_scatter(first: NeuronStudy, second: NeuronStudy, *, min_count: int = MIN_COUNT) -> TokenScatter:
    """Mean activation ratios of the vocabulary items that occur at least `min_count` times in both studies.

    Raises:
        InputError: If the vocabularies differ, or fewer than three items occur that often.
    """
    if first.tokenizer_sha256 != second.tokenizer_sha256:
        raise InputError(
            "the two models have different vocabularies, so their tokens cannot be compared; study two models"
            " with the same tokenizer"
        )
    size = min(len(first.vocabulary_count), len(second.vocabulary_count))  # one may have padding rows
    count = np.minimum(first.vocabulary_count[:size], second.vocabulary_count[:size])
    ids = np.flatnonzero(count >= min_count)
    if len(ids) < 3:
        raise InputError(
            f"only {len(ids)} vocabulary items occur {min_count} times in both studies, but a comparison needs 3;"
            " run on more text"
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
    from scipy.stats import spearmanr

    return float(np.asarray(spearmanr(x, y))[0])  # correlation and p-value
