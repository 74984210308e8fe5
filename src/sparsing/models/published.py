"""The ten checkpoints that Luo et al. published with *Sparsing Law* (arXiv 2411.02335).

Each of five scales was trained once with ReLU and once with SiLU. All are MiniCPM models (see `minicpm.py`). The
shapes are those of the paper's model table: d_ff = 2.5 d_model, head size 128, vocabulary 122,753, tied head.
"""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedCheckpoint:
    """One checkpoint on the hub. `load_model(name)` loads it."""

    name: str
    """Name on the hub."""
    scale: str
    """The paper's name of the size, e.g. `0.1b`."""
    activation: Literal["relu", "silu"]
    d_model: int
    n_layers: int
    d_ff: int
    n_heads: int
    """Number of attention heads; each has its own key and value head."""
    non_embedding_params: int
    """Number of parameters without the embedding, which is the paper's measure of scale; three digits."""


_SHAPES = {  # scale: d_model, n_layers, d_ff, n_heads, non-embedding parameters
    "0.1b": (768, 16, 1920, 6, 108_000_000),
    "0.2b": (1024, 20, 2560, 8, 241_000_000),
    "0.4b": (1280, 24, 3200, 10, 452_000_000),
    "0.8b": (1536, 28, 3840, 12, 760_000_000),
    "1.2b": (1792, 32, 4480, 14, 1_180_000_000),
}
_ACTIVATIONS: tuple[Literal["relu", "silu"], ...] = ("relu", "silu")

PUBLISHED = tuple(
    PublishedCheckpoint(
        name=f"SparseLLM/sparsing-law-{scale}-{activation}",
        scale=scale,
        activation=activation,
        d_model=d_model,
        n_layers=n_layers,
        d_ff=d_ff,
        n_heads=n_heads,
        non_embedding_params=params,
    )
    for scale, (d_model, n_layers, d_ff, n_heads, params) in _SHAPES.items()
    for activation in _ACTIVATIONS
)
