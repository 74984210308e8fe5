"""Applies thresholds to a model: inactive neurons are zeroed before `down_proj`, in `forward` and `generate`.

    with sparsify(model, thresholds) as sparse:
        sparse.generate(...)

The model is the same as before after the block, bit for bit, also after an exception: only hooks are set.
The rule acts on every token of every call, prompt and generated ones alike.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from sparsing.rules import SELECTIONS
from sparsing.rules.scores import SCORES
from sparsing.rules.thresholds import Thresholds
from sparsing.sites.site import FFNSite, find_sites
from sparsing.sites.tap import attach

if TYPE_CHECKING:
    from torch import nn

    from sparsing.models.loading import LoadedModel


class Mask:
    """The active set of each layer, for the sites and thresholds it was made for."""

    def __init__(self, sites: Sequence[FFNSite], thresholds: Thresholds):
        thresholds.check_layers(len(sites))
        self._score = SCORES[thresholds.on]
        self._select = SELECTIONS[thresholds.select]
        self._values = thresholds.values
        self._scales = [self._score.scale(site) for site in sites]
        self.needs_gate = self._score.value == "gate"
        self.counted: torch.Tensor | None = None
        """Which tokens are real, shape `(windows, tokens)`; None when all are. Only top-k over a sequence asks."""

    def active(self, layer: int, gate: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        """Which neurons are active, shape of `h`, bool."""
        value = gate if self.needs_gate else h
        scale = self._scales[layer]
        if scale is not None and scale.device != h.device:
            scale = self._scales[layer] = scale.to(h.device)
        counted = self.counted if self.counted is not None else h.new_ones((), dtype=torch.bool)
        windows = value.reshape(*_rows(counted, value), value.shape[-1])
        return self._select(windows, scale, self._values[layer], counted.expand(windows.shape[:-1])).view_as(
            h
        )

    def masked(self, layer: int, gate: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        """`h` with inactive neurons at zero."""
        return h * self.active(layer, gate, h)


def _rows(counted: torch.Tensor, value: torch.Tensor) -> tuple[int, int]:
    """(windows, tokens): some blocks flatten both before `down_proj`."""
    if counted.ndim == 2:
        return counted.shape[0], counted.shape[1]
    return (value.shape[0], value.shape[1]) if value.ndim == 3 else (1, value.shape[0])


@contextlib.contextmanager
def sparsify(model: nn.Module, thresholds: Thresholds) -> Iterator[nn.Module]:
    """Apply `thresholds` to any supported model inside the block.

    Raises:
        UnsupportedModelError: no family knows the model.
        InputError: thresholds for another number of layers.
    """
    handles = apply(model, thresholds)
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()


def apply(model: nn.Module, thresholds: Thresholds) -> list:
    """Apply `thresholds` for good; returns the handles whose `remove()` undoes it. Raises as `sparsify`."""
    sites = find_sites(model)
    mask = Mask(sites, thresholds)
    return attach(sites, mask.masked, gate=mask.needs_gate)


def load_sparse(name_or_path: str, thresholds: Thresholds, **options: object) -> LoadedModel:
    """`load_model` with `thresholds` applied for keeps."""
    from sparsing.models.loading import load_model

    loaded = load_model(name_or_path, **options)  # pyright: ignore[reportArgumentType]
    apply(loaded.model, thresholds)
    return loaded
