"""The weights of a gated block in the layout of the kernels: every neuron has one contiguous row in each matrix.

The model stores `gate` and `up` in this way. `down` is `down_proj.weight` transposed, so that a skipped neuron is a run
of whole cache lines (and mostly of whole pages) that are not read.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from sparsing.errors import UnsupportedModelError
from sparsing.sites.effective_weight import is_plain

if TYPE_CHECKING:
    from torch import nn

    from sparsing.sites.site import Site

ACTIVATIONS = {
    "ReLU": "relu",
    "SiLU": "silu",
    "SiLUActivation": "silu",
    "GELU": "gelu",
    "GELUActivation": "gelu",
    "GELUTanh": "gelu_tanh",
    "NewGELUActivation": "gelu_tanh",
    "FastGELUActivation": "gelu_tanh",
    "ReLUSquaredActivation": "relu2",
}
"""Class name of an activation module to the name of the activation in the kernels."""
ZEROING = frozenset({"relu", "relu2"})
"""Activations that are exactly zero for every input at or below zero."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class PackedFFN:
    """One block: `y = sum_i act(gate_i . x) (up_i . x) down_i` over its neurons `i`."""

    gate: torch.Tensor
    """`gate_proj.weight`, shape `(d_ff, d_model)`, C-contiguous; float32, bfloat16, float16 or int8."""
    up: torch.Tensor
    """`up_proj.weight`, same shape and dtype."""
    down: torch.Tensor
    """`down_proj.weight.T`, same shape and dtype."""
    act: str
    """Name of the activation, a value of `ACTIVATIONS`."""
    scales: torch.Tensor | None = None
    """For int8: the factor of each row of gate, up and down, shape `(3, d_ff)`, float32."""

    @property
    def d_ff(self) -> int:
        return self.gate.shape[0]

    @property
    def d_model(self) -> int:
        return self.gate.shape[1]

    @property
    def zeroing(self) -> bool:
        """True if the activation has exact zeros, so that the sign of the gate alone makes neurons inactive."""
        return self.act in ZEROING

    @property
    def neuron_bytes(self) -> int:
        """Bytes of one neuron: its three rows, and for int8 their three float32 scales."""
        return 3 * self.d_model * self.gate.element_size() + (0 if self.scales is None else 12)

    def floats(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """`gate`, `up` and `down` as float32, multiplied by their scales."""
        rows = [weight.float() for weight in (self.gate, self.up, self.down)]
        if self.scales is not None:
            rows = [row * scale[:, None] for row, scale in zip(rows, self.scales, strict=True)]
        return rows[0], rows[1], rows[2]

    def column_norms(self) -> torch.Tensor:
        """`||W[:, i]||_2` of `down_proj` for each neuron, shape `(d_ff,)`, float32."""
        return self.floats()[2].norm(dim=1)

    def to(self, target: torch.dtype | torch.device | str) -> PackedFFN:
        """The block with its three matrices in another dtype or on another device."""
        gate, up, down = (weight.to(target) for weight in (self.gate, self.up, self.down))
        return dataclasses.replace(self, gate=gate, up=up, down=down)


def pack(site: Site) -> PackedFFN:
    """The packed weights of a block. `gate` and `up` share memory with the model, `down` is a copy.

    Raises:
        UnsupportedModelError: if the block has no gate or has biases, or if its activation has no kernel.
    """
    gate, up = gate_and_up(site)
    act = ACTIVATIONS.get(type(site.gate_act).__name__)
    if act is None:
        raise UnsupportedModelError(
            f"{site.block}: no kernel supports the activation {type(site.gate_act).__name__};"
            f" supported are {', '.join(sorted(set(ACTIVATIONS.values())))}"
        )
    biased = [module for module in (*site.projections, site.down_proj) if _bias(module) is not None]
    if biased:
        raise UnsupportedModelError(
            f"{site.block}: no kernel supports projections with biases; decode this model dense"
        )
    return PackedFFN(gate=gate, up=up, down=site.weight.detach().T.contiguous(), act=act)


def gate_and_up(site: Site) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights of `gate_proj` and `up_proj`, each `(d_ff, d_model)`: views, also of one fused parameter.

    Raises:
        UnsupportedModelError: if the block has no gate, or the site is one of routed experts.
    """
    if site.kind == "expert":
        raise UnsupportedModelError(
            f"{site.block}: kernels exist only for ordinary blocks, not for routed experts; use sparsify() to mask"
            " experts"
        )
    if not all(is_plain(module) for module in (*site.projections, site.down_proj)):
        raise UnsupportedModelError(
            f"{site.block}: the kernels read plain weights, but an adapter, a quantisation or offloading is in the way;"
            " merge the adapter (--adapter DIR, or model.merge_and_unload()), or load unquantised weights"
        )
    weights = [module.get_parameter("weight").detach() for module in site.projections]
    if len(weights) == 1:
        weights = list(weights[0].split(site.d_ff))
    if len(weights) != 2 or any(weight.shape != (site.d_ff, site.d_model) for weight in weights):
        raise UnsupportedModelError(
            f"{site.block}: kernels exist only for gated blocks (gate_proj, up_proj, down_proj);"
            " use sparsify() to mask other blocks"
        )
    return weights[0].contiguous(), weights[1].contiguous()


def convert_weights(packed: PackedFFN, dtype: str | None) -> PackedFFN:
    """The block with weights in the dtype of this name, `int8` included; the same object if nothing changes."""
    if dtype == "int8":
        return to_int8(packed)
    wanted = packed.gate.dtype if dtype is None else getattr(torch, dtype)
    return packed if wanted == packed.gate.dtype else packed.to(wanted)


def to_int8(packed: PackedFFN) -> PackedFFN:
    """The block with int8 weights and one scale, `max |row| / 127`, for each neuron and matrix."""
    rows, scales = zip(*map(_quantised, packed.floats()), strict=True)
    return PackedFFN(gate=rows[0], up=rows[1], down=rows[2], act=packed.act, scales=torch.stack(scales))


def _quantised(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = (
        rows.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / 127
    )  # tiny: a row of zeros stays zero
    return (rows / scale[:, None]).round().clamp(-127, 127).to(torch.int8), scale


def _bias(module: nn.Module) -> torch.Tensor | None:
    return getattr(module, "bias", None)
