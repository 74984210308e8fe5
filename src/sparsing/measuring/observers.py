"""What a sparse pass adds up: who was active where, and the error that dropping made.

`SparseWatcher` applies thresholds and counts; the CETT it measures is on sparse inputs (each layer sees what
the sparse layers before it give). `DenseErrorWatcher` measures the same error on dense inputs, as CETT is
defined. Both are exact: every counted token, the true `down_proj`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sparsing.measuring.passes import Watcher
from sparsing.measuring.token_record import ShownTokens
from sparsing.rules.mask import Mask
from sparsing.rules.thresholds import Thresholds
from sparsing.sites.site import FFNSite
from sparsing.text.corpus import Batch, Corpus


class MaskWatcher(Watcher):
    """Applies thresholds and adds up nothing: the loss alone is wanted."""

    def __init__(self, sites: Sequence[FFNSite], thresholds: Thresholds):
        super().__init__()
        self._mask = Mask(sites, thresholds)
        self.needs_gate = self._mask.needs_gate
        self.on_ffn = self._mask.masked

    def begin(self, batch: Batch) -> None:
        self._mask.counted = batch.real


class DenseErrorWatcher(Watcher):
    """Adds up the CETT of each layer, leaving the model dense."""

    def __init__(self, sites: Sequence[FFNSite], thresholds: Thresholds):
        super().__init__()
        self._sites = sites
        self._mask = Mask(sites, thresholds)
        self.needs_gate = self._mask.needs_gate
        self._dropped: torch.Tensor | None = None
        self.totals["cett"] = torch.zeros(len(sites), dtype=torch.float64)

    def begin(self, batch: Batch) -> None:
        self._counted = batch.counted
        self._mask.counted = batch.real

    def on_ffn(self, layer: int, gate: torch.Tensor, h: torch.Tensor) -> torch.Tensor | None:
        self._dropped = self._output(layer, h * ~self._mask.active(layer, gate, h))
        return None

    def on_output(self, layer: int, y: torch.Tensor) -> None:
        self._add(layer, self._dropped, self._without_bias(layer, y))

    def _output(self, layer: int, h: torch.Tensor) -> torch.Tensor:
        return h @ self._sites[layer].weight.detach().T  # (..., d_model)

    def _without_bias(self, layer: int, y: torch.Tensor) -> torch.Tensor:
        bias = self._sites[layer].bias
        return y if bias is None else y - bias

    def _add(self, layer: int, dropped: torch.Tensor | None, full: torch.Tensor) -> None:
        assert dropped is not None, "down_proj ran without its input being seen"
        lost = dropped.float().norm(dim=-1).flatten()
        whole = full.float().norm(dim=-1).flatten()
        error = torch.where(lost > 0, lost / whole, 0.0)
        counted = self._counted.flatten().to(error.device)
        self.totals["cett"][layer] += (error * counted).sum(dtype=torch.float64).cpu()
        self._dropped = None


class SparseWatcher(DenseErrorWatcher):
    """Applies thresholds and counts active neurons per window, layer, neuron and position."""

    def __init__(self, sites: Sequence[FFNSite], thresholds: Thresholds, corpus: Corpus):
        super().__init__(sites, thresholds)
        n_layers, d_ff = len(sites), max(site.d_ff for site in sites)
        count = torch.int64
        self._shown = ShownTokens(sites, corpus)
        self.totals |= self._shown.totals
        self.totals |= {
            "active": torch.zeros(corpus.n_windows, n_layers, dtype=count),
            "tokens": torch.zeros(corpus.n_windows, dtype=count),
            "neuron": torch.zeros(n_layers, d_ff, dtype=count),
            "position": torch.zeros(corpus.width, dtype=torch.float64),
            "position_tokens": torch.zeros(corpus.width, dtype=count),
        }

    def begin(self, batch: Batch) -> None:
        super().begin(batch)
        self._windows = batch.windows
        self.totals["tokens"][batch.windows] = batch.counted.sum(-1).cpu()
        self.totals["position_tokens"][: batch.counted.shape[1]] += batch.counted.sum(0).cpu()

    def on_ffn(self, layer: int, gate: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        active = self._mask.active(layer, gate, h)
        self._shown.see(layer, self._windows, self._count(layer, active), h)
        kept = h * active
        self._dropped = self._output(layer, h - kept)
        return kept

    def on_output(self, layer: int, y: torch.Tensor) -> None:
        assert self._dropped is not None
        self._add(layer, self._dropped, self._without_bias(layer, y) + self._dropped)

    def _count(self, layer: int, active: torch.Tensor) -> torch.Tensor:
        """Adds up; returns the activation ratio per token, shape `(windows, tokens)`."""
        counted = self._counted.to(active.device)
        d_ff = active.shape[-1]
        active = active.reshape(*counted.shape, d_ff) & counted[..., None]
        per_token = active.view(torch.uint8).sum(-1, dtype=torch.int32).cpu()  # (windows, tokens)
        share = per_token.double() / d_ff
        self.totals["active"][self._windows, layer] = per_token.sum(-1)
        self.totals["neuron"][layer, :d_ff] += active.flatten(0, 1).sum(0, dtype=torch.int32).cpu()
        self.totals["position"][: share.shape[1]] += share.sum(0) / len(self._sites)
        return share
