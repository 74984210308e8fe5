"""`WeightBytes`: the bytes of weights that decoding one token reads, in total and for feed-forward neurons.

The time to decode at batch 1 is about proportional to the bytes read. So dense bytes divided by sparse bytes is an
upper bound of the speed-up from skipping neurons, reached if the active neurons are known beforehand at no cost. The
cache of keys and values and the activations are not counted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Sequence
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
    ffn: dict[int, torch.Tensor] = {}
    for site in sites:
        ffn |= neuron_parameters(model, site)
    routed = _routed_shares(model, sites)
    return WeightBytes(
        total_bytes=round(_total(_read_parameters(model), routed, in_bytes=True)),
        ffn_bytes=round(_total(ffn, routed, in_bytes=True)),
    )


def count_parameters(model: Any, sites: Sequence[Site]) -> int:
    """The number of weights whose bytes are `WeightBytes.total_bytes`."""
    return round(_total(_read_parameters(model), _routed_shares(model, sites), in_bytes=False))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SiteWeights:
    """The weights of the neurons that a token passes at one site."""

    parameters: float
    bytes: float
    matrices: int
    """3 for gate, up and down, 2 for a block without a gate, 1 for a linear input."""

    def share(self, parts: Collection[str]) -> float:
        """Share of the weights that belongs to these parts: `gate`, `up`, `down`, `input`.

        A block without a gate computes its scores from `up`, so that only `down` can be a part.
        """
        if self.matrices == 1:
            return 1.0
        known = {"gate", "up", "down"} if self.matrices == 3 else {"down"}
        return len(known.intersection(parts)) / self.matrices


def site_weights(model: Any, site: Site) -> SiteWeights:
    """Counts the weights of the neurons of one site."""
    if site.kind == "linear_input":
        parameters = cast("Iterable[torch.Tensor]", site.down_proj.parameters())
        own = {id(p): p for p in parameters if p.ndim > 1}
        return SiteWeights(
            parameters=_total(own, {}, in_bytes=False), bytes=_total(own, {}, in_bytes=True), matrices=1
        )
    own, routed = neuron_parameters(model, site), _routed_shares(model, [site])
    parameters = _total(own, routed, in_bytes=False)
    down = site.d_model * site.d_ff * site.top_k
    return SiteWeights(
        parameters=parameters,
        bytes=_total(own, routed, in_bytes=True),
        matrices=min(3, max(2, round(parameters / down))),
    )


def neuron_parameters(model: Any, site: Site) -> dict[int, torch.Tensor]:
    """The parameters that belong to the neurons of a feed-forward site, by identity: rows of gate and up, columns of
    down."""
    # Some blocks are the layer itself, which holds attention too. Only the weights of neurons have an axis of
    # length d_ff (2 * d_ff if gate and up are fused).
    widths = {site.d_ff, 2 * site.d_ff}
    owner = site.name if site.kind == "expert" else site.block
    parameters = cast("Iterable[torch.Tensor]", model.get_submodule(owner).parameters())
    return {id(p): p for p in parameters if widths & set(p.shape)}


def _read_parameters(model: Any) -> dict[int, torch.Tensor]:
    """All parameters but embeddings, by identity, so that tied weights count once."""
    from torch import nn

    head = model.get_output_embeddings()
    read: dict[int, torch.Tensor] = {id(p): p for p in model.parameters()}
    for module in model.modules():
        if isinstance(module, nn.Embedding) and (head is None or module.weight is not head.weight):
            read.pop(id(module.weight), None)
    return read


def _routed_shares(model: Any, sites: Sequence[Site]) -> dict[int, float]:
    """The share of the parameters of routed experts that a token reads: those of the experts that it is routed to."""
    return {
        i: site.top_k / site.n_experts
        for site in sites
        if site.kind == "expert"
        for i in neuron_parameters(model, site)
    }


def _total(parameters: dict[int, torch.Tensor], routed: dict[int, float], *, in_bytes: bool) -> float:
    return sum(
        routed.get(i, 1) * p.numel() * (p.element_size() if in_bytes else 1) for i, p in parameters.items()
    )
