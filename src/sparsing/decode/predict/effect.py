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
from sparsing.measuring.journal import Journal
from sparsing.measuring.observers import MaskWatcher
from sparsing.measuring.passes import Watcher, run_pass

if TYPE_CHECKING:
    import numpy as np

    from sparsing.base.progress import Progress
    from sparsing.models.loading import LoadedModel
    from sparsing.text.corpus import Corpus


class PredictedWatcher(MaskWatcher):
    """Applies thresholds to the neurons that the predictor selects, and sets the others to zero."""

    def __init__(self, loaded: LoadedModel, predictor: Predictor):
        super().__init__(loaded.sites, predictor.thresholds)
        self._layers = [predictor.layer(index, site.weight.device) for index, site in enumerate(loaded.sites)]
        self._acts = [ACTIVATIONS[type(site.gate_act).__name__] for site in loaded.sites]
        self._inputs: dict[int, torch.Tensor] = {}
        self.on_ffn = self._predicted

    def on_input(self, layer: int, x: torch.Tensor) -> None:
        """Keep the block's input, shape `(..., d_model)`, until its `gate` and `h` arrive."""
        self._inputs[layer] = x

    def _predicted(self, layer: int, gate: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        x = self._inputs.pop(layer)
        selected = self._layers[layer].predict(x.reshape(-1, x.shape[-1]), self._acts[layer])
        return self._mask.masked(layer, gate, h) * selected.view(h.shape)


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
    watcher = PredictedWatcher(loaded, predictor)
    dense = _pass(loaded, corpus, Watcher(), "dense", progress)
    exact = _pass(loaded, corpus, MaskWatcher(loaded.sites, predictor.thresholds), "sparse", progress)
    with inputs_tapped(loaded.sites, watcher.on_input):
        predicted = _pass(loaded, corpus, watcher, "sparse by the predicted set", progress)
    interval = ratio_interval(predicted["nll"] - exact["nll"], dense["labels"])
    return PredictorEffect(
        ppl_ratio_exact=_ppl_ratio(exact, dense),
        ppl_ratio_predicted=_ppl_ratio(predicted, dense),
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
    loaded: LoadedModel, corpus: Corpus, watcher: Watcher, label: str, progress: Progress | None
) -> dict[str, np.ndarray]:
    return run_pass(loaded, corpus, watcher, key="", journal=Journal(), label=label, progress=progress)


def _ppl_ratio(sparse: dict[str, np.ndarray], dense: dict[str, np.ndarray]) -> float:
    return math.exp((sparse["nll"] - dense["nll"]).sum() / dense["labels"].sum())
