"""The first tokens of a corpus, one by one: their activation ratio in each site and the largest neurons there.

These tokens are for reading, not for statistics: a few hundred of them, however long the corpus is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from sparsing.measuring.passes import Totals
from sparsing.rules.scores import sizes
from sparsing.sites.site import Site
from sparsing.text.corpus import Corpus

SHOWN_TOKENS = 512
"""Tokens that are kept. Whole windows are kept, so there may be up to a window more."""
TOP_NEURONS = 3
"""Neurons kept per token and site."""


@dataclasses.dataclass(eq=False)
class TokenRecord(Totals):
    """Activation of the first tokens; one tensor per site."""

    ratio: list[torch.Tensor]
    """Activation ratio, shape `(windows, width)`, float64."""
    neuron: list[torch.Tensor]
    """The neurons with the largest `neuron_norm`, shape `(windows, width, top)`, int32."""
    norm: list[torch.Tensor]
    """Their `neuron_norm`, shape `(windows, width, top)`, float32."""


class TokenRecorder:
    """Fills a `TokenRecord` while the first windows run."""

    def __init__(self, sites: Sequence[Site], corpus: Corpus):
        self._windows = min(corpus.n_windows, -(-SHOWN_TOKENS // corpus.width))
        self._norms = [site.column_norms() for site in sites]
        shape = (self._windows, corpus.width)
        top = min(TOP_NEURONS, *(site.d_ff for site in sites))
        devices = [site.device for site in sites]
        self.record = TokenRecord(
            ratio=[torch.zeros(shape, dtype=torch.float64, device=at) for at in devices],
            neuron=[torch.zeros(*shape, top, dtype=torch.int32, device=at) for at in devices],
            norm=[torch.zeros(*shape, top, dtype=torch.float32, device=at) for at in devices],
        )

    def add(self, index: int, span: slice, ratio: torch.Tensor, h: torch.Tensor) -> None:
        """Keep what belongs to the first windows.

        Args:
            index: Which site.
            span: Which windows of the corpus this batch holds.
            ratio: Activation ratio per token, shape `(windows, tokens)`, float64.
            h: Shape `(windows * tokens, d_ff)`.
        """
        count = min(span.stop, self._windows) - span.start
        if count <= 0:
            return
        at, width = slice(span.start, span.start + count), ratio.shape[1]
        record = self.record
        record.ratio[index][at, :width] = ratio[:count]
        size = sizes(h.view(*ratio.shape, -1)[:count], self._norms[index])
        best = size.topk(record.norm[index].shape[-1])
        record.neuron[index][at, :width] = best.indices.int()
        record.norm[index][at, :width] = best.values
