"""What neurons of a site add to its output, for ordinary blocks and for routed experts alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparsing.sites.effective_weight import is_plain, run_without_bias
from sparsing.sites.site import Site
from sparsing.sites.tap import Rows

if TYPE_CHECKING:
    import torch


def neuron_output(
    site: Site, h: torch.Tensor, rows: Rows, weight: torch.Tensor | None = None
) -> torch.Tensor:
    """Output of the neurons in `h`, without the bias, shape `(tokens, d_model)`.

    Of routed experts it is the sum over the experts of each token, times their routing weights.

    Args:
        h: `rows.h` or a part of its neurons, with zeros elsewhere, shape `(rows, d_ff)`.
        weight: The weight of the site in the dtype of `h`, if it is another dtype than that of the model.
    """
    if rows.routing is None and weight is None and not is_plain(site.down_proj):
        return run_without_bias(site.down_proj, h)  # as exact as its matrix, which would have to be computed
    weight = site.weight.detach() if weight is None else weight
    if rows.routing is None:
        return h @ weight.T
    return rows.routing.sums(h, weight)


def bias_output(site: Site, rows: Rows) -> torch.Tensor | None:
    """What the bias of `down_proj` adds to the output, shape `(d_model,)` or `(tokens, d_model)`; None if no bias."""
    if site.bias is None or rows.routing is None:
        return site.bias
    return rows.routing.weighted_sums(site.bias[rows.routing.expert])
