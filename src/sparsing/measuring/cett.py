"""Cumulative error of tail truncation (CETT), the quality dial of ReLU2 Wins (Zhang et al. 2024).

For one token at threshold `t`: `CETT(t) = ||sum over dropped i of h_i W[:, i]||_2 / ||y||_2` with
`y = sum over all i of h_i W[:, i]`. CETT is 0 if no neuron is dropped and 1 if all are dropped. Between these it can
exceed 1, because neurons may cancel each other. The CETT of a layer is the mean over its tokens.
"""

from __future__ import annotations

from typing import Any, cast

import torch

from sparsing.rules.flags import above, kept
from sparsing.sites.neuron_output import neuron_output
from sparsing.sites.site import Site
from sparsing.sites.tap import Rows

_ENTRIES = 2**20
"""Most entries of a tensor with the dropped neurons at several thresholds."""


def output_norm(h: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`||h W^T||_2` per token. `h`: `(tokens, d_ff)`; `weight`: `(d_model, d_ff)`. Shape `(tokens,)`, float32."""
    return norm(h @ weight.T)


def norm(output: torch.Tensor) -> torch.Tensor:
    """L2 norm per token of outputs of shape `(tokens, d_model)`. Shape `(tokens,)`, at least float32."""
    # at least in float32, since squares of half-precision outputs overflow or vanish
    wide = output if output.dtype == torch.float64 else output.float()
    return cast("Any", wide).norm(dim=-1)  # PyTorch does not annotate the parameters of `norm`


def relative_error(dropped: torch.Tensor, full: torch.Tensor) -> torch.Tensor:
    """CETT per token, shape `(tokens,)`; 0 where the dropped part has norm 0, also if the output is 0.

    Args:
        dropped: Norm of the summed outputs of the dropped neurons, shape `(tokens,)`.
        full: Norm of the full output, same shape.
    """
    return torch.where(dropped > 0, dropped / full, 0.0)


def site_cett(site: Site, rows: Rows, active: torch.Tensor, full_norm: torch.Tensor) -> torch.Tensor:
    """CETT per token of one site for a given active set, shape `(tokens,)`, float32.

    Of routed experts it is the error of the sum over the experts of the token, with their routing weights.

    Args:
        active: The neurons that stay, shape `(rows, d_ff)`, bool.
        full_norm: Norm of the output of all neurons per token, shape `(tokens,)`.
    """
    return relative_error(norm(neuron_output(site, kept(rows.h, ~active), rows)), full_norm)


def site_cett_above(
    site: Site, rows: Rows, size: torch.Tensor, thresholds: torch.Tensor, full_norm: torch.Tensor
) -> torch.Tensor:
    """CETT per token of one site if the neurons above a threshold stay, for each of several thresholds.

    Args:
        size: Scores of the neurons, shape `(rows, d_ff)`, float32.
        thresholds: Shape `(n_thresholds,)`, float32, on the device of the site.
        full_norm: As in `site_cett`.

    Returns: Shape `(n_thresholds, tokens)`, float32.
    """
    if rows.routing is not None:
        return torch.stack([site_cett(site, rows, above(size, t), full_norm) for t in thresholds])
    # one product for many thresholds, since the sampled tokens of a batch are few
    at_once = max(1, _ENTRIES // max(1, size.numel()))
    errors: list[torch.Tensor] = []
    for begin in range(0, len(thresholds), at_once):
        few = thresholds[begin : begin + at_once, None, None]
        dropped = kept(rows.h, ~above(size, few))  # (thresholds, tokens, d_ff)
        output = neuron_output(site, dropped.flatten(0, 1), rows)
        errors.append(relative_error(norm(output).view(len(few), -1), full_norm))
    return torch.cat(errors)


def cett(
    h: torch.Tensor, active: torch.Tensor, weight: torch.Tensor, full_norm: torch.Tensor | None = None
) -> torch.Tensor:
    """CETT per token for a given active set.

    Args:
        h: Intermediate activations, shape `(tokens, d_ff)`, any float dtype.
        active: The neurons that stay, shape `(tokens, d_ff)`, bool.
        weight: Of `down_proj`, shape `(d_model, d_ff)`.
        full_norm: `output_norm(h, weight)` if it is known already.

    Returns: Shape `(tokens,)`, float32; 0 where the dropped part has norm 0, also if the output is 0.
    """
    full = output_norm(h, weight) if full_norm is None else full_norm
    return relative_error(output_norm(kept(h, ~active), weight), full)
