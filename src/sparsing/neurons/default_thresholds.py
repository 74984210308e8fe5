"""Thresholds for a study that was given none: a fixed CETT, learned on a few thousand tokens of its text."""

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

CALIBRATION_TOKENS = 8192


def calibrated(
    loaded: LoadedModel, corpus: Corpus, cett: float, *, settings: PassSettings | None = None
) -> Thresholds:
    """The thresholds of each layer at which its CETT is `cett`, on windows spread evenly over the corpus.

    Raises:
        InputError: a CETT outside what the rule allows.
    """
    rule = make_rule("cett")
    rule.check(cett)
    count = min(corpus.n_windows, -(-CALIBRATION_TOKENS * corpus.n_windows // corpus.num_tokens))
    sample = corpus.part(np.linspace(0, corpus.n_windows - 1, count).round().astype(int))
    curves = calibrate(loaded, sample, settings=settings)
    provenance = made_now(**loaded.provenance(), **sample.provenance())
    return thresholds_at(rule, cett, curves=curves, sites=curves.sites, provenance=provenance)
