"""What a predictor costs in perplexity: sparse passes over a text with the active set computed, and predicted.

The predicted pass does in PyTorch what the kernels do: `x` as int8, codes times codes, and the rule's own cuts on the
exact values of the predicted neurons.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import torch

from sparsing.base.progress import Progress
from sparsing.decode.kernels.packing import ACTIVATIONS
from sparsing.decode.predict.inputs import inputs_tapped
from sparsing.decode.predict.predictor import Predictor, PredictorEffect
from sparsing.errors import InputError
from sparsing.measuring.intervals import ratio_interval
from sparsing.measuring.passes import LossOnly, PassResult, PassSettings, Totals, run_pass
from sparsing.measuring.subject import ppl_ratio
from sparsing.rules.mask import Change, Mask

if TYPE_CHECKING:
    from sparsing.models.loading import LoadedModel
    from sparsing.sites.tap import Rows
    from sparsing.text.corpus import Corpus


class PredictedMask(Mask):
    """Applies thresholds to the neurons that the predictor names, and zero to the others."""

    def __init__(self, loaded: LoadedModel, predictor: Predictor):
        super().__init__(loaded.sites, predictor.thresholds)
        places = [site.weight.device for site in loaded.sites]
        self._layers = [predictor.layer(index, place) for index, place in enumerate(places)]
        self._acts = [ACTIVATIONS[type(site.gate_act).__name__] for site in loaded.sites]
        self._inputs: dict[int, torch.Tensor] = {}

    def on_input(self, layer: int, x: torch.Tensor) -> None:
        """The block's input, `(..., d_model)`, comes before its `gate` and `h`."""
        self._inputs[layer] = x

    def change(self, index: int, rows: Rows) -> Change:
        x = self._inputs.pop(index)
        named = self._layers[index].predict(x.reshape(-1, x.shape[-1]), self._acts[index])
        exact = super().change(index, rows)
        return Change(exact.active & named.view(rows.h.shape), exact.h * named.view(rows.h.shape))


def predictor_effect(
    loaded: LoadedModel, corpus: Corpus, predictor: Predictor, *, progress: Progress | None = None
) -> PredictorEffect:
    """Three passes over the corpus: dense, sparse, sparse by the predicted set.

    Raises:
        InputError: a predictor for another number of layers.
    """
    if len(predictor.layers) != len(loaded.sites):
        raise InputError(
            f"a predictor of {len(predictor.layers)} layers for a model of {len(loaded.sites)}; calibrate one"
        )
    predicted = PredictedMask(loaded, predictor)
    dense = _pass(loaded, corpus, None, "dense", progress)
    exact = _pass(loaded, corpus, Mask(loaded.sites, predictor.thresholds), "sparse", progress)
    with inputs_tapped(loaded.sites, predicted.on_input):
        named = _pass(loaded, corpus, predicted, "sparse by the predicted set", progress)
    interval = ratio_interval(named.nll - exact.nll, dense.labels)
    return PredictorEffect(
        ppl_ratio_exact=ppl_ratio(exact.nll, dense.nll, dense.labels),
        ppl_ratio_predicted=ppl_ratio(named.nll, dense.nll, dense.labels),
        ppl_change_interval=None if interval is None else (math.expm1(interval[0]), math.expm1(interval[1])),
        num_tokens=corpus.num_tokens,
    )


def with_effect(
    loaded: LoadedModel, corpus: Corpus, predictor: Predictor, *, progress: Progress | None = None
) -> Predictor:
    """The predictor with its effect on this corpus measured. Raises as `predictor_effect`."""
    return dataclasses.replace(
        predictor, effect=predictor_effect(loaded, corpus, predictor, progress=progress)
    )


def _pass(
    loaded: LoadedModel, corpus: Corpus, mask: Mask | None, label: str, progress: Progress | None
) -> PassResult[Totals]:
    settings = PassSettings(progress=progress)
    return run_pass(loaded, corpus, LossOnly(), mask, key="", settings=settings, label=label)
