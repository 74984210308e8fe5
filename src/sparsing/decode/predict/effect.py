"""The effect of a predictor on perplexity: passes over the same text with the active set computed, and predicted.

The predicted pass computes in PyTorch what the kernels compute: `x` is quantised to int8 and multiplied with the codes,
and the thresholds then apply to the exact values of the predicted neurons.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import torch

from sparsing.decode.kernels.packing import ACTIVATIONS
from sparsing.decode.predict.inputs import inputs_tapped
from sparsing.decode.predict.predictor import Predictor, PredictorEffect
from sparsing.errors import InputError
from sparsing.measuring.intervals import ratio_interval
from sparsing.measuring.passes import LossOnly, PassResult, PassSettings, Totals, run_pass
from sparsing.measuring.subject import ppl_ratio
from sparsing.rules.mask import Change, Mask

if TYPE_CHECKING:
    from sparsing.base.progress import Progress
    from sparsing.models.loading import LoadedModel
    from sparsing.sites.tap import Rows
    from sparsing.text.corpus import Corpus


class PredictedMask(Mask):
    """Applies thresholds to the neurons that the predictor selects, and sets the others to zero."""

    def __init__(self, loaded: LoadedModel, predictor: Predictor):
        super().__init__(loaded.sites, predictor.thresholds)
        self._layers = [predictor.layer(index, site.weight.device) for index, site in enumerate(loaded.sites)]
        self._acts = [ACTIVATIONS[type(site.gate_act).__name__] for site in loaded.sites]
        self._inputs: dict[int, torch.Tensor] = {}

    def on_input(self, layer: int, x: torch.Tensor) -> None:
        """Keep the block's input, shape `(..., d_model)`, until its `gate` and `h` arrive."""
        self._inputs[layer] = x

    def change(self, index: int, rows: Rows) -> Change:
        x = self._inputs.pop(index)
        selected = self._layers[index].predict(x.reshape(-1, x.shape[-1]), self._acts[index])
        exact = super().change(index, rows)
        return Change(exact.active & selected, exact.h * selected)


def predictor_effect(
    loaded: LoadedModel, corpus: Corpus, predictor: Predictor, *, progress: Progress | None = None
) -> PredictorEffect:
    """Measure the effect in three passes over the corpus: dense, sparse, and sparse with the predicted set.

    Raises:
        InputError: if the predictor is for another number of layers.
    """
    if len(predictor.layers) != len(loaded.sites):
        raise InputError(
            f"the predictor has {len(predictor.layers)} layers and the model {len(loaded.sites)};"
            " calibrate a predictor for this model"
        )
    mask = PredictedMask(loaded, predictor)
    dense = _pass(loaded, corpus, None, "dense", progress)
    exact = _pass(loaded, corpus, Mask(loaded.sites, predictor.thresholds), "sparse", progress)
    with inputs_tapped(loaded.sites, mask.on_input):
        predicted = _pass(loaded, corpus, mask, "sparse by the predicted set", progress)
    interval = ratio_interval(predicted.nll - exact.nll, dense.labels)
    return PredictorEffect(
        ppl_ratio_exact=ppl_ratio(exact.nll, dense.nll, dense.labels),
        ppl_ratio_predicted=ppl_ratio(predicted.nll, dense.nll, dense.labels),
        ppl_change_interval=None if interval is None else (math.expm1(interval[0]), math.expm1(interval[1])),
        num_tokens=corpus.num_tokens,
    )


def with_effect(
    loaded: LoadedModel, corpus: Corpus, predictor: Predictor, *, progress: Progress | None = None
) -> Predictor:
    """The predictor with its `effect` measured on this corpus. Raises as `predictor_effect`."""
    return dataclasses.replace(
        predictor, effect=predictor_effect(loaded, corpus, predictor, progress=progress)
    )


def _pass(
    loaded: LoadedModel, corpus: Corpus, mask: Mask | None, label: str, progress: Progress | None
) -> PassResult[Totals]:
    return run_pass(
        loaded, corpus, LossOnly(), mask, key="", settings=PassSettings(progress=progress), label=label
    )
