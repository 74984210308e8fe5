"""Bytes of weights that decoding one token reads at batch 1, and how many of them are feed-forward neurons'.

Decode at batch 1 is bound by bytes read, so dense bytes over sparse bytes is the ceiling of the speed-up that
skipping neurons can buy: it is met where the active neurons are known beforehand and at no cost. The cache of
keys and values and the activations are left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sparsing.base.results import Result
from sparsing.errors import InputError

if TYPE_CHECKING:
    from sparsing.models.loading import LoadedModel
    from sparsing.sites.site import Site


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightBytes(Result):
    """Weights in the dtype they are loaded in."""

    kind = "weight_bytes"

    total_bytes: int
    """All parameters but embeddings that a token looks up one row of; a tied embedding counts, as the head."""
    ffn_bytes: int
    """Of these, what belongs to feed-forward neurons: their rows of gate and up, their columns of down."""

    def sparse_bytes(self, activation_ratio: float) -> float:
        """Bytes that are left when only this share of the neurons is read.

        Raises:
            InputError: a ratio outside [0, 1].
        """
        if not 0 <= activation_ratio <= 1:
            raise InputError(f"activation_ratio must be in [0, 1], got {activation_ratio}")
        return self.total_bytes - (1 - activation_ratio) * self.ffn_bytes

    def speedup_ceiling(self, activation_ratio: float) -> float:
        """Dense bytes over sparse bytes."""
        return self.total_bytes / self.sparse_bytes(activation_ratio)


def weight_bytes(loaded: LoadedModel) -> WeightBytes:
    """Count the parameters of a loaded model."""
    return model_weight_bytes(loaded.model, loaded.sites)


def model_weight_bytes(model: Any, sites: Sequence[Site]) -> WeightBytes:
    """Count the parameters of a model, and as feed-forward neurons' those of `sites`."""
    from torch import nn

    head = model.get_output_embeddings()
    read = {id(p): p for p in model.parameters()}
    for module in model.modules():
        if isinstance(module, nn.Embedding) and (head is None or module.weight is not head.weight):
            read.pop(id(module.weight), None)
    ffn = {}
    for site in sites:
        # where a layer's projections sit on the layer itself, attention is in the same module
        widths = {site.d_ff, 2 * site.d_ff}
        ffn |= {id(p): p for p in model.get_submodule(site.block).parameters() if widths & set(p.shape)}
    return WeightBytes(
        total_bytes=sum(p.numel() * p.element_size() for p in read.values()),
        ffn_bytes=sum(p.numel() * p.element_size() for p in ffn.values()),
    )
