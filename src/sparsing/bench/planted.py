"""Random weights and inputs of a ReLU block for which a requested share of neurons is active.

Shapes without a checkpoint are timed on such planted weights, since the time of the sparse kernels depends on the
activation ratio. Every input carries two fixed directions, as real inputs of a block carry a mean. A gate row is
noise plus a multiple of both directions:

- along `spread_direction` the multiple is random per neuron, so that some neurons are active often and some rarely;
- along `level_direction` it is the same for all neurons.

Neuron `i` is then active with probability `Phi(level + spread n_i)` with `n_i` standard normal. The mean over neurons
is `Phi(level / sqrt(1 + spread^2))`. The level depends on the input alone, so the same weights serve all ratios.
Which neurons are active differs from token to token.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from scipy.stats import norm

from sparsing.decode.kernels.packing import PackedFFN
from sparsing.errors import InputError

SPREAD = 0.5
"""Standard deviation over neurons of the probit of their activation frequency. At a ratio of 6.5%, the 1st and the
99th percent of neurons are active on 0.2% and on 30% of the tokens. The trained ReLU models of this package have
0.15-0.25 per layer; larger models have a broader distribution."""
_STRENGTH = 0.25
"""Length of one unit of level, and of the spread direction, as a share of the norm of the input's noise."""
_CLOSEST = 1e-6
"""A ratio of 1 is planted as `1 - _CLOSEST`, since its level would be infinite."""


def planted_level(ratio: float, spread: float) -> float:
    """The level at which a share `ratio` of the neurons is active, averaged over neurons; `ratio` is in (0, 1)."""
    return math.sqrt(1 + spread**2) * float(norm.ppf(ratio))


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class PlantedBlock:
    """A block with planted weights, and the directions that its inputs carry."""

    packed: PackedFFN
    """Weights in float32."""
    spread_direction: torch.Tensor
    """Unit vector, shape `(d_model,)`."""
    level_direction: torch.Tensor
    """Unit vector orthogonal to `spread_direction`, shape `(d_model,)`."""
    spread: float
    """Standard deviation over neurons of the probit of their activation frequency."""

    def inputs(self, tokens: int, ratio: float, *, seed: int) -> torch.Tensor:
        """Inputs on which a share `ratio` of the neurons is active, shape `(tokens, d_model)`, float32.

        Raises:
            InputError: if the ratio is outside (0, 1].
        """
        if not 0 < ratio <= 1:
            raise InputError(
                f"the activation ratio must be in (0, 1], got {ratio}; write 0.065 for 6.5% of the neurons"
            )
        axes = torch.stack([self.spread_direction, self.level_direction])
        noise = torch.randn(tokens, self.packed.d_model, generator=torch.Generator().manual_seed(seed))
        # noise along the directions would add to the level of single tokens
        noise -= noise @ axes.T @ axes
        level = planted_level(min(ratio, 1 - _CLOSEST), self.spread)
        return noise + _unit_length(self.packed.d_model) * (axes[0] + level * axes[1])


def plant_block(d_model: int, d_ff: int, *, spread: float = SPREAD, seed: int = 0) -> PlantedBlock:
    """A random ReLU block of this shape in float32.

    Raises:
        InputError: if `d_model` is below 4, which two directions would fill, if `d_ff` is below 1, or if the
            spread is negative.
    """
    if d_model < 4 or d_ff < 1 or spread < 0:
        raise InputError(
            f"planted weights need d_model >= 4, d_ff >= 1 and spread >= 0, got {d_model}, {d_ff}, {spread}"
        )
    generator = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(d_model, 2, generator=generator)).Q.T  # (2, d_model)
    gate, up, down = (torch.randn(d_ff, d_model, generator=generator) for _ in range(3))
    gate -= gate @ axes.T @ axes
    gate /= gate.norm(dim=1, keepdim=True)  # the gate of pure noise then has standard deviation 1
    gate += (spread * torch.randn(d_ff, 1, generator=generator) * axes[0] + axes[1]) / _unit_length(d_model)
    packed = PackedFFN(gate=gate, up=up / math.sqrt(d_model), down=down / math.sqrt(d_ff), act="relu")
    return PlantedBlock(packed=packed, spread_direction=axes[0], level_direction=axes[1], spread=spread)


def _unit_length(d_model: int) -> float:
    """Length of one unit of level along its direction; the norm of the noise is close to `sqrt(d_model)`."""
    return _STRENGTH * math.sqrt(d_model)
