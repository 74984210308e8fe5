"""Cumulative error of tail truncation (CETT), the quality dial of ReLU2 Wins (Zhang et al. 2024).

For one token at threshold `t`: `CETT(t) = ||sum over dropped i of h_i W[:, i]||_2 / ||y||_2` with
`y = sum over all i of h_i W[:, i]`. CETT is 0 if no neuron is dropped and 1 if all are dropped. Between these it can
exceed 1, because neurons may cancel each other. The CETT of a layer is the mean over its tokens.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, cast

import numpy as np
import torch

from sparsing.rules.flags import above, as_array, as_tensor, kept, on_cpu
from sparsing.sites.effective_weight import is_plain
from sparsing.sites.neuron_output import neuron_output
from sparsing.sites.site import Site
from sparsing.sites.tap import Rows

_ENTRIES = 2**20
"""Most entries of a tensor with the dropped neurons, or with their outputs, at several thresholds; also most weights
that are added at once on a CPU, since more would not stay in its cache."""


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
        thresholds: Rising, shape `(n_thresholds,)`, float32, on the device of the site.
        full_norm: From `site_norm`.

    Returns: Shape `(n_thresholds, tokens)`, float32.
    """
    if rows.routing is not None:
        return torch.stack([site_cett(site, rows, above(size, t), full_norm) for t in thresholds])
    if _adds_neurons(site, rows):
        return relative_error(_norms_below(rows.h, size, thresholds, site.weight.detach()), full_norm)
    # one product for many thresholds, since the sampled tokens of a batch are few
    at_once = max(1, _ENTRIES // max(1, size.numel()))
    errors: list[torch.Tensor] = []
    for begin in range(0, len(thresholds), at_once):
        few = thresholds[begin : begin + at_once, None, None]
        dropped = kept(rows.h, ~above(size, few))  # (thresholds, tokens, d_ff)
        output = neuron_output(site, dropped.flatten(0, 1), rows)
        errors.append(relative_error(norm(output).view(len(few), -1), full_norm))
    return torch.cat(errors)


def site_norm(site: Site, rows: Rows) -> torch.Tensor:
    """Norm of the output of all neurons per token, shape `(tokens,)`, as precise as `site_cett_above`."""
    if not _adds_neurons(site, rows):
        return norm(neuron_output(site, rows.h, rows))
    dtype = _wide(rows.h)
    return output_norm(rows.h.to(dtype), site.weight.detach().to(dtype))


def _adds_neurons(site: Site, rows: Rows) -> bool:
    """Whether errors at several thresholds are sums of the outputs of single neurons, which only a CPU does well."""
    return on_cpu(rows.h) and rows.routing is None and is_plain(site.down_proj)


def _wide(h: torch.Tensor) -> torch.dtype:
    return torch.promote_types(h.dtype, torch.float32)


def _norms_below(
    h: torch.Tensor, size: torch.Tensor, thresholds: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """Norm of the output of the neurons that are not above a threshold, shape `(n_thresholds, tokens)`.

    Each neuron is added once, to the outputs of its step between two thresholds, and running sums over the steps give
    the outputs below each threshold. For 64 tokens and 16 thresholds in float32 that takes about a third of the time of
    16 products; for a few tokens the copy of the weights takes as long as the products.

    Args:
        thresholds: Rising.
        weight: Shape `(d_model, d_ff)`.
    """
    h, n = h.to(_wide(h)), len(thresholds)
    squares = h.new_zeros(len(h), n)
    outputs_at_once = max(1, _ENTRIES // weight.shape[1])
    at_once = max(1, _ENTRIES // (n * min(outputs_at_once, len(weight))))
    pieces = [slice(begin, begin + at_once) for begin in range(0, len(h), at_once)]
    steps = [_Steps.of(h[piece], size[piece], thresholds) for piece in pieces]
    for begin in range(0, len(weight) if pieces else 0, outputs_at_once):
        neurons = weight[begin : begin + outputs_at_once].to(h.dtype).T.contiguous()
        for piece, of_piece in zip(pieces, steps, strict=True):
            squares[piece] += of_piece.sums_below(neurons).square().sum(-1)
    return squares.sqrt().T


@dataclasses.dataclass(frozen=True, eq=False)
class _Steps:
    """The neurons of some tokens, ordered by the step between two thresholds to which they belong."""

    n_thresholds: int
    neuron: torch.Tensor
    """Neurons of the first step of the first token, of its second step and so on, then of the other tokens, int64."""
    value: torch.Tensor
    """Their activations, same shape."""
    begin: torch.Tensor
    """Where each step of each token begins, shape `(tokens * n_thresholds,)`, int64."""

    @classmethod
    def of(cls, h: torch.Tensor, size: torch.Tensor, thresholds: torch.Tensor) -> _Steps:
        values, sizes, n = as_array(h), as_array(size), len(thresholds)
        tokens, width = size.shape
        step = np.zeros((tokens, width), np.min_scalar_type(n))
        for threshold in as_array(thresholds):
            step += sizes > threshold
        step[values == 0] = n  # adds nothing, like a neuron above all thresholds
        of_token = (n + 1) * np.arange(tokens)[:, None]
        counts = np.bincount((of_token + step).ravel(), minlength=(n + 1) * tokens)
        counts = counts.reshape(tokens, n + 1)[:, :n]
        order = np.argsort(step, axis=-1, kind="stable")
        added = np.arange(width) < counts.sum(1)[:, None]
        return cls(
            n_thresholds=n,
            neuron=as_tensor(order[added]),
            value=as_tensor(np.take_along_axis(values, order, -1)[added]),
            begin=as_tensor(counts.cumsum() - counts.ravel()),
        )

    def sums_below(self, neurons: torch.Tensor) -> torch.Tensor:
        """Summed outputs of the neurons that are not above a threshold, shape `(tokens, n_thresholds, n_outputs)`.

        Args:
            neurons: Outputs of each neuron at the activation 1, shape `(d_ff, n_outputs)`.
        """
        sums = torch.nn.functional.embedding_bag(
            self.neuron, neurons, self.begin, mode="sum", per_sample_weights=self.value
        ).view(-1, self.n_thresholds, neurons.shape[1])
        for before, here in itertools.pairwise(sums.unbind(1)):  # faster than `cumsum`
            here += before
        return sums


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
