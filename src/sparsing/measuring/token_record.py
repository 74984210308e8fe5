"""The first tokens of a corpus, one by one: their ratio in each layer and the neurons that say most there.

For reading, not for statistics: a few hundred tokens, however long the corpus.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from sparsing.rules.scores import sizes
from sparsing.sites.site import FFNSite
from sparsing.text.corpus import Corpus

SHOWN_TOKENS = 512
"""Tokens that are kept; whole windows, so there may be up to a window more."""
TOP_NEURONS = 3
"""Neurons kept per token and layer."""


class ShownTokens:
    """Running record of the first windows; `totals` join those of the watcher that holds it."""

    def __init__(self, sites: Sequence[FFNSite], corpus: Corpus):
        windows = min(corpus.n_windows, -(-SHOWN_TOKENS // corpus.width))
        shape = (windows, corpus.width, len(sites))
        top = min(TOP_NEURONS, *(site.d_ff for site in sites))
        self._norms = [site.column_norms() for site in sites]
        self._windows = windows
        self.totals = {
            "shown": torch.zeros(shape, dtype=torch.float64),
            "shown_neuron": torch.zeros(*shape, top, dtype=torch.int32),
            "shown_norm": torch.zeros(*shape, top, dtype=torch.float32),
        }

    def see(self, layer: int, windows: np.ndarray, share: torch.Tensor, h: torch.Tensor) -> None:
        """A layer of a batch.

        Args:
            windows: Which windows of the corpus, in order.
            share: Activation ratio per token, shape `(windows, tokens)`.
            h: Shape `(windows, tokens, d_ff)` or `(windows * tokens, d_ff)`.
        """
        rows = int((windows < self._windows).sum())
        if rows == 0:
            return
        at, width = windows[:rows], share.shape[1]
        self.totals["shown"][at, :width, layer] = share[:rows].cpu().double()
        norms = self._norms[layer] = self._norms[layer].to(h.device)
        size = sizes(h.reshape(*share.shape, -1)[:rows], norms)
        best = size.topk(self.totals["shown_norm"].shape[-1])
        self.totals["shown_neuron"][at, :width, layer] = best.indices.int().cpu()
        self.totals["shown_norm"][at, :width, layer] = best.values.cpu()
