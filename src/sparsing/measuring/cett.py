"""Cumulative error of tail truncation (CETT), the quality dial of ReLU2 Wins (Zhang et al. 2024).

For one token at threshold `t`: `CETT(t) = ||sum over dropped i of h_i W[:, i]||_2 / ||y||_2` with
`y = sum over all i of h_i W[:, i]`. It is 0 when nothing is dropped, 1 when all is, and can exceed 1 in
between where neurons cancel. The CETT of a layer is the mean over its tokens.
"""

from __future__ import annotations

import torch


def output_norm(h: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`||h W^T||_2` per token. `h`: `(tokens, d_ff)`; `weight`: `(d_model, d_ff)`. Shape `(tokens,)`, float32."""
    return (h @ weight.T).float().norm(dim=-1)


def cett(
    h: torch.Tensor, active: torch.Tensor, weight: torch.Tensor, full_norm: torch.Tensor | None = None
) -> torch.Tensor:
    """CETT per token for a given active set.

    Args:
        h: intermediate activations, shape `(tokens, d_ff)`, any float dtype.
        active: the neurons kept, shape `(tokens, d_ff)`, bool.
        weight: of `down_proj`, shape `(d_model, d_ff)`.
        full_norm: `output_norm(h, weight)` where it is known already.

    Returns: shape `(tokens,)`, float32; 0 where nothing of size is dropped, also where the output is 0.
    """
    full = output_norm(h, weight) if full_norm is None else full_norm
    dropped = output_norm(h * ~active, weight)
    return torch.where(dropped > 0, dropped / full, 0.0)
