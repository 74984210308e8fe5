"""A gated block's weights as the kernels read them: a neuron's row contiguous in each of three matrices.

`gate` and `up` are stored so already; `down` is `down_proj.weight` transposed, so that a neuron that is skipped is
whole cache lines (whole pages, mostly) that are not read.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from sparsing.errors import UnsupportedModelError

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
"""Class of an activation module -> the name that kernels know it by."""
ZEROING = frozenset({"relu", "relu2"})
"""Activations that are exactly zero for every input at or below zero."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class PackedFFN:
    """`y = sum_i act(gate_i . x) (up_i . x) down_i` over the neurons `i` of one block."""

    gate: torch.Tensor
    """`gate_proj.weight`, shape `(d_ff, d_model)`, C-contiguous; float32, bfloat16, float16 or int8."""
    up: torch.Tensor
    """`up_proj.weight`, same shape and dtype."""
    down: torch.Tensor
    """`down_proj.weight.T`, same shape and dtype."""
    act: str
    """Activation: a value of `ACTIVATIONS`."""
    scales: torch.Tensor | None = None
    """For int8: what to multiply a row by, shape `(3, d_ff)`, float32, for gate, up and down."""

    @property
    def d_ff(self) -> int:
        return self.gate.shape[0]

    @property
    def d_model(self) -> int:
        return self.gate.shape[1]

    @property
    def zeroing(self) -> bool:
        """True when most neurons can be skipped on the sign of the gate alone."""
        return self.act in ZEROING

    @property
    def neuron_bytes(self) -> int:
        """Bytes of one neuron's three rows."""
        return 3 * self.d_model * self.gate.element_size() + (0 if self.scales is None else 12)

    def floats(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """`gate`, `up` and `down` as float32, scales multiplied in."""
        rows = [weight.float() for weight in (self.gate, self.up, self.down)]
        if self.scales is not None:
            rows = [row * scale[:, None] for row, scale in zip(rows, self.scales, strict=True)]
        return rows[0], rows[1], rows[2]

    def column_norms(self) -> torch.Tensor:
        """`||W[:, i]||_2` per neuron, shape `(d_ff,)`, float32."""
        return self.floats()[2].norm(dim=1)


def pack(site: Site) -> PackedFFN:
    """The packed weights of a block; `gate` and `up` share memory with the model, `down` is a copy.

    Raises:
        UnsupportedModelError: a block without a gate, with biases, or with an activation no kernel knows.
    """
    gate, up = gate_and_up(site)
    act = ACTIVATIONS.get(type(site.gate_act).__name__)
    if act is None:
        raise UnsupportedModelError(
            f"{site.block}: no kernel knows the activation {type(site.gate_act).__name__};"
            f" known are {', '.join(sorted(set(ACTIVATIONS.values())))}"
        )
    biased = [module for module in (*site.projections, site.down_proj) if _bias(module) is not None]
    if biased:
        raise UnsupportedModelError(f"{site.block}: projections with biases have no kernel; decode it dense")
    return PackedFFN(gate=gate, up=up, down=site.weight.detach().T.contiguous(), act=act)


def gate_and_up(site: Site) -> tuple[torch.Tensor, torch.Tensor]:
    """Views of the weights of `gate_proj` and `up_proj`, each `(d_ff, d_model)`, apart or fused.

    Raises:
        UnsupportedModelError: a block without a gate.
    """
    weights = [module.get_parameter("weight").detach() for module in site.projections]
    if len(weights) == 1:
        weights = list(weights[0].split(site.d_ff))
    if len(weights) != 2 or any(weight.shape != (site.d_ff, site.d_model) for weight in weights):
        raise UnsupportedModelError(
            f"{site.block}: kernels exist for gated blocks (gate_proj, up_proj, down_proj) only;"
            " sparsify() masks the others"
        )
    return weights[0].contiguous(), weights[1].contiguous()


def to_int8(packed: PackedFFN) -> PackedFFN:
    """The same block with weights as int8, one scale per neuron and matrix: `max |row| / 127`."""
    rows, scales = zip(*map(_quantised, packed.floats()), strict=True)
    return PackedFFN(gate=rows[0], up=rows[1], down=rows[2], act=packed.act, scales=torch.stack(scales))


def _quantised(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = rows.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / 127
    return (rows / scale[:, None]).round().clamp(-127, 127).to(torch.int8), scale


def _bias(module: nn.Module) -> torch.Tensor | None:
    return getattr(module, "bias", None)
