"""What a predictor costs in perplexity: sparse passes over a text with the active set computed, and predicted.

The predicted pass does in PyTorch what the kernels do: `x` as int8, codes times codes, and the rule's own cuts on the
exact values of the predicted neurons.
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
    """Applies thresholds to the neurons that the predictor names, and zero to the others."""

    def __init__(self, loaded: LoadedModel, predictor: Predictor):
        super().__init__(loaded.sites, predictor.thresholds)
        places = [site.weight.device for site in loaded.sites]
        self._layers = [predictor.layer(index, place) for index, place in enumerate(places)]
        self._acts = [ACTIVATIONS[type(site.gate_act).__name__] for site in loaded.sites]
        self._inputs: dict[int, torch.Tensor] = {}
        self.on_ffn = self._predicted

    def on_input(self, layer: int, x: torch.Tensor) -> None:
        """The block's input, `(..., d_model)`, comes before its `gate` and `h`."""
        self._inputs[layer] = x

    def _predicted(self, layer: int, gate: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        x = self._inputs.pop(layer)
        named = self._layers[layer].predict(x.reshape(-1, x.shape[-1]), self._acts[layer])
        return self._mask.masked(layer, gate, h) * named.view(h.shape)


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
    predicted = PredictedWatcher(loaded, predictor)
    dense = _pass(loaded, corpus, Watcher(), "dense", progress)
    exact = _pass(loaded, corpus, MaskWatcher(loaded.sites, predictor.thresholds), "sparse", progress)
    with inputs_tapped(loaded.sites, predicted.on_input):
        named = _pass(loaded, corpus, predicted, "sparse by the predicted set", progress)
    interval = ratio_interval(named["nll"] - exact["nll"], dense["labels"])
    return PredictorEffect(
        ppl_ratio_exact=_ppl_ratio(exact, dense),
        ppl_ratio_predicted=_ppl_ratio(named, dense),
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
    loaded: LoadedModel, corpus: Corpus, watcher: Watcher, label: str, progress: Progress | None
) -> dict[str, np.ndarray]:
    return run_pass(loaded, corpus, watcher, key="", journal=Journal(), label=label, progress=progress)


def _ppl_ratio(sparse: dict[str, np.ndarray], dense: dict[str, np.ndarray]) -> float:
    return math.exp((sparse["nll"] - dense["nll"]).sum() / dense["labels"].sum())
