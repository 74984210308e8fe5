"""`CountingMask`: applies thresholds to every forward of a model and counts active neurons, token by token.

It is the `Mask` of `sparsify` for the evaluation harness. Two things differ for speed: `h` is zeroed in place,
since the harness runs under `no_grad` and each block computes its own `h`; and on a CPU the rows are worked on
in pieces that stay in the cache. Which tokens are padding is known only after a forward, so the counts of the
last forward are kept per token until `take` is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from sparsing.errors import InputError
from sparsing.rules.mask import Mask
from sparsing.rules.scores import is_active

if TYPE_CHECKING:
    from sparsing.rules.thresholds import Thresholds
    from sparsing.sites.site import Site
    from sparsing.sites.tap import Rows

_CACHE_VALUES = 2**17
"""Values per piece on a CPU: half a megabyte, so that comparing, zeroing and counting stay in the cache."""


class CountingMask:
    """Drops inactive neurons and remembers how many were active for each token; `see` is for `tap.attach`."""

    def __init__(self, sites: Sequence[Site], thresholds: Thresholds):
        if not thresholds.selection.per_token:
            raise InputError(
                "top_k over a sequence lets prompt tokens compete with generated ones, which generation cannot"
                " do; measure with --scope token and evaluate those thresholds"
            )
        self._mask = Mask(sites, thresholds)
        self._score = thresholds.score
        self.needs_gate = self._mask.needs_gate
        self.d_ff = [site.d_ff for site in sites]
        self._counts: list[torch.Tensor | None] = [None] * len(sites)

    def see(self, index: int, rows: Rows) -> torch.Tensor:
        """`h` with inactive neurons at zero. `rows.h` itself may be changed."""
        limit = self._mask.cut(index, rows.h.device)
        if limit is None:
            change = self._mask.change(index, rows)
            self._counts[index] = change.active.sum(-1)
            return change.h
        self._counts[index] = _drop(rows.h, self._score.value_of(rows.gate, rows.h), limit)
        return rows.h

    def take(self, shape: tuple[int, int]) -> torch.Tensor:
        """Active neurons in the last forward, shape `(n_sites, sequences, tokens)`, int64; forgotten here."""
        counts = [count for count in self._counts if count is not None]
        assert len(counts) == len(self._counts), "a feed-forward block did not run in this forward"
        self._counts = [None] * len(self._counts)
        return torch.stack([count.to(counts[0].device) for count in counts]).view(-1, *shape)


def _drop(rows: torch.Tensor, value: torch.Tensor, limit: torch.Tensor | float) -> torch.Tensor:
    """Zero `rows` in place where `|value|` is not above the limit; active per row, shape `(rows,)`, int64."""
    step = max(1, _CACHE_VALUES // rows.shape[-1])
    if rows.is_cuda or len(rows) <= step:
        active = is_active(value, limit)
        rows.mul_(active)
        return active.sum(-1)
    pieces = zip(rows.split(step), value.split(step), strict=True)
    return torch.cat([_drop(piece, seen, limit) for piece, seen in pieces])
