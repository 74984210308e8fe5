"""Thresholds for a study without given thresholds: those of one CETT, learned on a few thousand tokens of its text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sparsing.base.provenance import made_now
from sparsing.measuring.calibration import calibrate
from sparsing.measuring.passes import PassSettings
from sparsing.rules import make_rule
from sparsing.rules.thresholds import Thresholds, thresholds_at
from sparsing.text.corpus import Corpus

if TYPE_CHECKING:
    from sparsing.models.loading import LoadedModel

LEARNING_TOKENS = 8192
"""About this many tokens are used to learn the thresholds."""


def learn_thresholds(
    loaded: LoadedModel, corpus: Corpus, cett: float, *, settings: PassSettings | None = None
) -> Thresholds:
    """Thresholds at which the CETT of each layer is `cett`, learned on windows spread evenly over the corpus.

    Args:
        cett: Target of every layer.
        settings: How the calibration pass runs.

    Raises:
        InputError: If the rule does not allow this CETT.
    """
    rule = make_rule("cett")
    rule.check(cett)
    count = min(corpus.n_windows, -(-LEARNING_TOKENS * corpus.n_windows // corpus.num_tokens))  # rounded up
    sample = corpus.part(np.linspace(0, corpus.n_windows - 1, count).round().astype(int))
    curves = calibrate(loaded, sample, settings=settings)
    provenance = made_now(**loaded.provenance(), **sample.provenance())
    return thresholds_at(rule, cett, curves=curves, sites=curves.sites, provenance=provenance)
