"""Applies thresholds to every forward of a model and counts who was active, token by token.

`Mask` of `sparsify` does the same for any selection; here the cuts are computed once and `h` is zeroed in
place, since the harness runs under `no_grad` and each block makes its own `h`. Which tokens are padding is
known only after a forward, so counts of the last forward are kept per token until they are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from sparsing.errors import InputError
from sparsing.rules.mask import Mask
from sparsing.rules.scores import SCORES, cut, is_active

if TYPE_CHECKING:
    from sparsing.rules.thresholds import Thresholds
    from sparsing.sites.site import FFNSite

_CACHE_VALUES = 2**17
"""Values per piece on a CPU: half a megabyte, so that comparing, zeroing and counting stay in the cache."""


class CountingMask:
    """What `tap.attach` calls: drops inactive neurons and remembers how many were active for each token."""

    def __init__(self, sites: Sequence[FFNSite], thresholds: Thresholds):
        if thresholds.select == "top_k_sequence":
            raise InputError(
                "top_k over a sequence lets prompt tokens compete with generated ones, which generation cannot"
                " do; measure with --scope token and evaluate those thresholds"
            )
        self._mask = Mask(sites, thresholds)
        self.needs_gate = self._mask.needs_gate
        self.d_ff = [site.d_ff for site in sites]
        self._counts: list[torch.Tensor | None] = [None] * len(sites)
        self._cuts: list[torch.Tensor | float] | None = None
        if thresholds.select == "above":
            scales = (SCORES[thresholds.on].scale(site) for site in sites)
            self._cuts = [cut(t, scale) for t, scale in zip(thresholds.values, scales, strict=True)]

    def on_ffn(self, layer: int, gate: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        """`h` with inactive neurons at zero; `h` itself may be changed."""
        if self._cuts is None:
            active = self._mask.active(layer, gate, h)
            self._counts[layer] = active.flatten(0, -2).sum(-1)
            return h * active
        rows = h.reshape(-1, h.shape[-1])
        value = gate.reshape(rows.shape) if self.needs_gate else rows
        self._counts[layer] = _drop(rows, value, self._cut(layer, h.device))
        return rows.view_as(h)

    def take(self, shape: tuple[int, int]) -> torch.Tensor:
        """Active neurons in the last forward, shape `(n_layers, sequences, tokens)`, int64; forgotten here."""
        counts = [count for count in self._counts if count is not None]
        assert len(counts) == len(self._counts), "a feed-forward block did not run in this forward"
        self._counts = [None] * len(self._counts)
        return torch.stack([count.to(counts[0].device) for count in counts]).view(-1, *shape)

    def _cut(self, layer: int, device: torch.device) -> torch.Tensor | float:
        assert self._cuts is not None
        limit = self._cuts[layer]
        if not isinstance(limit, (int, float)) and limit.device != device:
            limit = self._cuts[layer] = limit.to(device)
        return limit


def _drop(rows: torch.Tensor, value: torch.Tensor, limit: torch.Tensor | float) -> torch.Tensor:
    """Zero `rows` in place where `|value|` is not above the limit; active per row, shape `(rows,)`, int64."""
    step = max(1, _CACHE_VALUES // rows.shape[-1])
    if rows.is_cuda or len(rows) <= step:
        active = is_active(value, limit)
        rows.mul_(active)
        return active.sum(-1)
    pieces = zip(rows.split(step), value.split(step), strict=True)
    return torch.cat([_drop(piece, seen, limit) for piece, seen in pieces])
