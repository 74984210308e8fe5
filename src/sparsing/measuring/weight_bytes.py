"""`WeightBytes`: the bytes of weights that decoding one token reads, in total and for feed-forward neurons.

The time to decode at batch 1 is about proportional to the bytes read. So dense bytes divided by sparse bytes is an
upper bound of the speed-up from skipping neurons, reached if the active neurons are known beforehand at no cost. The
cache of keys and values and the activations are not counted.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, cast

from sparsing.base.results import Result
from sparsing.errors import InputError
from sparsing.sites.effective_weight import is_unquantised

if TYPE_CHECKING:
    from torch import nn

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
    ffn: dict[int, _Stored] = {}
    for site in sites:
        ffn |= _neuron_weights(model, site)
    routed = _routed_shares(model, sites)
    return WeightBytes(
        total_bytes=round(_total(_read_weights(model), routed, in_bytes=True)),
        ffn_bytes=round(_total(ffn, routed, in_bytes=True)),
    )


def count_parameters(model: Any, sites: Sequence[Site]) -> int:
    """The number of weights whose bytes are `WeightBytes.total_bytes`."""
    return round(_total(_read_weights(model), _routed_shares(model, sites), in_bytes=False))


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
        own = {i: stored for i, stored in _weights_of(site.down_proj).items() if len(stored.shape) > 1}
        return SiteWeights(
            parameters=_total(own, {}, in_bytes=False), bytes=_total(own, {}, in_bytes=True), matrices=1
        )
    own, routed = _neuron_weights(model, site), _routed_shares(model, [site])
    parameters = _total(own, routed, in_bytes=False)
    down = site.d_model * site.d_ff * site.top_k
    return SiteWeights(
        parameters=parameters,
        bytes=_total(own, routed, in_bytes=True),
        matrices=min(3, max(2, round(parameters / down))),
    )


@dataclasses.dataclass(frozen=True)
class _Stored:
    """A tensor of weights, or the matrix of a projection that keeps it in another form."""

    shape: tuple[int, ...]
    bytes: int

    @property
    def parameters(self) -> int:
        return math.prod(self.shape)


def _weights_of(module: nn.Module) -> dict[int, _Stored]:
    """The weights in a module, by the identity of the tensor or of the projection: tied weights count once.

    A projection of quantised weights counts as its matrix, with the bytes of its codes, scales and zero points.
    """
    found: dict[int, _Stored] = {}
    for part in module.modules():
        tensors = dict(part.named_parameters(recurse=False))
        if (shape := _coded_shape(part)) is not None:
            # no `state_dict`: that of bitsandbytes changes the weights on a CPU
            codes = tensors | dict(part.named_buffers(recurse=False))
            size = sum(stored_bytes(tensor) for name, tensor in codes.items() if name != "bias")
            found[id(part)] = _Stored(shape, size)
            tensors = {name: tensor for name, tensor in tensors.items() if name == "bias"}
        for tensor in tensors.values():
            found[id(tensor)] = _Stored(tuple(tensor.shape), stored_bytes(tensor))
    return found


def _coded_shape(module: Any) -> tuple[int, int] | None:
    """Outputs and inputs of a projection that does not keep its matrix as plain numbers; None for other modules."""
    shape = (getattr(module, "out_features", None), getattr(module, "in_features", None))
    if not all(isinstance(size, int) for size in shape) or any(True for _ in module.children()):
        return None
    import torch

    weight: Any = getattr(module, "weight", None)
    is_plain = type(weight) in (torch.nn.Parameter, torch.Tensor) and is_unquantised(weight)
    return None if is_plain else cast("tuple[int, int]", shape)


def stored_bytes(tensor: Any) -> int:
    """Bytes of a tensor and of its scales, or of the tensors that a subclass such as torchao's keeps in it."""
    if hasattr(tensor, "__tensor_flatten__"):
        return sum(stored_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    # an attribute of 4-bit weights of bitsandbytes; the one scale per row of 8-bit weights is too little to count
    scales = getattr(getattr(tensor, "quant_state", None), "absmax", None)
    held = [tensor] if scales is None else [tensor, scales]
    return sum(part.numel() * part.element_size() for part in held)


def _neuron_weights(model: Any, site: Site) -> dict[int, _Stored]:
    """The weights that belong to the neurons of a feed-forward site: rows of gate and up, columns of down."""
    # Some blocks are the layer itself, which holds attention too. Only the weights of neurons have an axis of
    # length d_ff (2 * d_ff if gate and up are fused).
    widths = {site.d_ff, 2 * site.d_ff}
    owner = model.get_submodule(site.name if site.kind == "expert" else site.block)
    return {i: stored for i, stored in _weights_of(owner).items() if widths & set(stored.shape)}


def _read_weights(model: Any) -> dict[int, _Stored]:
    """All weights but embeddings."""
    from torch import nn

    head = model.get_output_embeddings()
    read = _weights_of(model)
    for module in model.modules():
        if isinstance(module, nn.Embedding) and (head is None or module.weight is not head.weight):
            read.pop(id(module.weight), None)
    return read


def _routed_shares(model: Any, sites: Sequence[Site]) -> dict[int, float]:
    """The share of the weights of routed experts that a token reads: those of the experts that it is routed to."""
    return {
        i: site.top_k / site.n_experts
        for site in sites
        if site.kind == "expert"
        for i in _neuron_weights(model, site)
    }


def _total(weights: dict[int, _Stored], routed: dict[int, float], *, in_bytes: bool) -> float:
    return sum(
        routed.get(i, 1) * (stored.bytes if in_bytes else stored.parameters) for i, stored in weights.items()
    )
