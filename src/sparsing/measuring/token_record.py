"""`TokenRecord`: the activation ratio and the largest neurons of each of the first tokens of a corpus.

The report shows these tokens as text. They are not for statistics: a few hundred tokens are kept, however long the
corpus is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from sparsing.measuring.passes import Totals
from sparsing.rules.scores import row_scale, sizes
from sparsing.sites.site import Site
from sparsing.sites.tap import Rows
from sparsing.text.corpus import Corpus

SHOWN_TOKENS = 512
"""Least number of tokens to keep. Whole windows are kept, so there may be up to a window more."""
TOP_NEURONS = 3
"""Neurons kept per token and site."""


@dataclasses.dataclass(eq=False)
class TokenRecord(Totals):
    """Activations of the first tokens; lists have one tensor per site."""

    ratio: list[torch.Tensor]
    """Activation ratio, shape `(windows, width)`, float64."""
    neuron: list[torch.Tensor]
    """The neurons with the largest `neuron_norm`, shape `(windows, width, top)`, int32.

    Neuron `i` of routed expert `e` has the number `e * d_ff + i`."""
    norm: list[torch.Tensor]
    """The `neuron_norm` of these neurons, shape `(windows, width, top)`, float32."""


class TokenRecorder:
    """Fills a `TokenRecord` while the first windows run."""

    def __init__(self, sites: Sequence[Site], corpus: Corpus):
        self._windows = min(corpus.n_windows, -(-SHOWN_TOKENS // corpus.width))
        self._norms = [site.column_norms() for site in sites]
        shape = (self._windows, corpus.width)
        top = min(TOP_NEURONS, *(site.width for site in sites))
        devices = [site.device for site in sites]
        self.record = TokenRecord(
            ratio=[torch.zeros(shape, dtype=torch.float64, device=at) for at in devices],
            neuron=[torch.zeros(*shape, top, dtype=torch.int32, device=at) for at in devices],
            norm=[torch.zeros(*shape, top, dtype=torch.float32, device=at) for at in devices],
        )

    def add(self, index: int, span: slice, ratio: torch.Tensor, rows: Rows) -> None:
        """Records the tokens of a batch that belong to the first windows.

        Args:
            index: Index of the site.
            span: Windows of the corpus that the batch holds.
            ratio: Activation ratio per token, shape `(windows, tokens)`, float64.
            rows: The rows of the site before neurons are dropped.
        """
        count = min(span.stop, self._windows) - span.start
        if count <= 0:
            return
        at, width = slice(span.start, span.start + count), ratio.shape[1]
        record = self.record
        record.ratio[index][at, :width] = ratio[:count]
        top = record.norm[index].shape[-1]
        if rows.routing is None:
            best = sizes(rows.h.view(*ratio.shape, -1)[:count], self._norms[index]).topk(top)
            neuron, norm = best.indices, best.values
        else:
            some = rows.of_tokens(torch.arange(count * width, device=rows.h.device), gate=False)
            neuron, norm = _largest(some, self._norms[index], top)
        record.neuron[index][at, :width] = neuron.view(count, width, top).int()
        record.norm[index][at, :width] = norm.view(count, width, top)


def _largest(rows: Rows, norms: torch.Tensor, top: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest neurons of each token over all of its experts, and their `neuron_norm`, shape `(tokens, top)`."""
    assert rows.routing is not None
    d_ff = rows.h.shape[-1]
    best = rows.per_token(sizes(rows.h, row_scale(norms, rows))).topk(top)
    expert = rows.per_token(rows.routing.expert[:, None]).gather(1, best.indices // d_ff)
    return expert * d_ff + best.indices % d_ff, best.values
