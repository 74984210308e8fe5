"""Weights for a shape without a checkpoint, planted so that a wanted share of ReLU neurons is active.

Every input carries two fixed directions, as real inputs of a block carry a mean. A gate row is noise plus a multiple
of both: along `spread_direction` a number of the neuron's own, so that some neurons are active often and some rarely;
along `level_direction` the same for all. Neuron `i` is then active with probability `Phi(level + spread n_i)`, `n_i`
normal, whose mean over neurons is `Phi(level / sqrt(1 + spread^2))`: the level, and with it the ratio, is a matter of
the input alone, so one set of weights serves all ratios. Which neurons are active differs from token to token.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from scipy.stats import norm

from sparsing.decode.kernels.packing import PackedFFN
from sparsing.errors import InputError

SPREAD = 0.5
"""Deviation over neurons of the probit of their frequency. At a ratio of 6.5% the rarest and the most frequent
percent of neurons are active on 0.2% and 30% of tokens. In the trained ReLU models that come with the package it is
0.15-0.25 per layer, and normal to the eye; larger models are broader."""
_STRENGTH = 0.25
"""Share of the input's noise norm that one unit of level, or the spread direction, has."""
_CLOSEST = 1e-6
"""A ratio of 1 is planted as one less this."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Planted:
    """A block and the directions that its inputs carry."""

    packed: PackedFFN
    spread_direction: torch.Tensor
    """Unit vector, shape `(d_model,)`."""
    level_direction: torch.Tensor
    """Unit vector at a right angle to it, shape `(d_model,)`."""
    spread: float

    def inputs(self, tokens: int, ratio: float, *, seed: int) -> torch.Tensor:
        """Inputs on which a share `ratio` of the neurons is active, shape `(tokens, d_model)`, float32.

        Raises:
            InputError: a ratio outside (0, 1].
        """
        if not 0 < ratio <= 1:
            raise InputError(f"a ratio must be in (0, 1], got {ratio}; 0.065 is 6.5% of the neurons")
        axes = torch.stack([self.spread_direction, self.level_direction])
        noise = torch.randn(tokens, self.packed.d_model, generator=torch.Generator().manual_seed(seed))
        noise -= noise @ axes.T @ axes
        level = math.sqrt(1 + self.spread**2) * float(norm.ppf(min(ratio, 1 - _CLOSEST)))
        return noise + _unit(self.packed.d_model) * (axes[0] + level * axes[1])


def plant(d_model: int, d_ff: int, *, spread: float = SPREAD, seed: int = 0) -> Planted:
    """A ReLU block of this shape in float32.

    Raises:
        InputError: fewer than 4 inputs (two directions would leave no room), or a negative spread.
    """
    if d_model < 4 or d_ff < 1 or spread < 0:
        raise InputError(
            f"planting needs d_model >= 4, d_ff >= 1 and spread >= 0, got {d_model}, {d_ff}, {spread}"
        )
    generator = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(d_model, 2, generator=generator)).Q.T  # (2, d_model)
    gate, up, down = (torch.randn(d_ff, d_model, generator=generator) for _ in range(3))
    gate -= gate @ axes.T @ axes
    gate /= gate.norm(dim=1, keepdim=True)  # so that noise alone gives a normal gate of deviation 1
    gate += (spread * torch.randn(d_ff, 1, generator=generator) * axes[0] + axes[1]) / _unit(d_model)
    packed = PackedFFN(gate=gate, up=up / math.sqrt(d_model), down=down / math.sqrt(d_ff), act="relu")
    return Planted(packed=packed, spread_direction=axes[0], level_direction=axes[1], spread=spread)


def _unit(d_model: int) -> float:
    """Length along a direction that one unit of level has."""
    return _STRENGTH * math.sqrt(d_model)
