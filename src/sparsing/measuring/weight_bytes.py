"""`WeightBytes`: the bytes of weights that decoding one token reads, in total and for feed-forward neurons.

The time to decode at batch 1 is about proportional to the bytes read. So dense bytes divided by sparse bytes is an
upper bound of the speed-up from skipping neurons, reached if the active neurons are known beforehand at no cost. The
cache of keys and values and the activations are not counted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

from sparsing.base.results import Result
from sparsing.errors import InputError

if TYPE_CHECKING:
    import torch

    from sparsing.models.loading import LoadedModel
    from sparsing.sites.site import Site


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightBytes(Result):
    """Bytes of weights in the dtype in which they are loaded."""

    kind = "weight_bytes"

    total_bytes: int
    """All parameters except embeddings, of which a token reads one row, and experts that it is not routed to. A tied
    embedding counts, since the head reads all of it."""
    ffn_bytes: int
    """The part of `total_bytes` that belongs to feed-forward neurons: rows of gate and up, columns of down."""

    def sparse_bytes(self, activation_ratio: float) -> float:
        """Bytes that are read if only this share of the neurons is read.

        Raises:
            InputError: If the ratio is outside [0, 1].
        """
        if not 0 <= activation_ratio <= 1:
            raise InputError(
                f"activation_ratio must be in [0, 1], got {activation_ratio}; give a fraction, not a percentage"
            )
        return self.total_bytes - (1 - activation_ratio) * self.ffn_bytes

    def speedup_ceiling(self, activation_ratio: float) -> float:
        """Upper bound of the speed-up: dense bytes divided by sparse bytes. Raises as `sparse_bytes`."""
        return self.total_bytes / self.sparse_bytes(activation_ratio)


def weight_bytes(loaded: LoadedModel) -> WeightBytes:
    """Counts the bytes of a loaded model."""
    return model_weight_bytes(loaded.model, loaded.sites)


def model_weight_bytes(model: Any, sites: Sequence[Site]) -> WeightBytes:
    """Counts the bytes of a model; the feed-forward neurons are the neurons of `sites`."""
    from torch import nn

    head = model.get_output_embeddings()
    # by identity, so that tied weights count once
    read: dict[int, torch.Tensor] = {id(p): p for p in model.parameters()}
    for module in model.modules():
        if isinstance(module, nn.Embedding) and (head is None or module.weight is not head.weight):
            read.pop(id(module.weight), None)
    ffn: dict[int, torch.Tensor] = {}
    routed: dict[int, float] = {}  # a token reads the weights of its own experts only
    for site in sites:
        # Some blocks are the layer itself, which holds attention too. Only the weights of neurons have an axis of
        # length d_ff (2 * d_ff if gate and up are fused).
        widths = {site.d_ff, 2 * site.d_ff}
        owner = site.name if site.kind == "expert" else site.block
        parameters = cast("Iterable[torch.Tensor]", model.get_submodule(owner).parameters())
        own = {id(p): p for p in parameters if widths & set(p.shape)}
        ffn |= own
        if site.kind == "expert":
            routed |= dict.fromkeys(own, site.top_k / site.n_experts)

    def sum_bytes(parameters: dict[int, torch.Tensor]) -> int:
        return round(sum(routed.get(i, 1) * p.numel() * p.element_size() for i, p in parameters.items()))

    return WeightBytes(total_bytes=sum_bytes(read), ffn_bytes=sum_bytes(ffn))
