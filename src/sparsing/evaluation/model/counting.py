"""`CountingMask`: applies thresholds in every forward of a model and counts the active neurons of each token.

It replaces the `Mask` of `sparsify` in evaluations. Two things differ for speed. `h` is zeroed in place, which is safe
because the harness runs without gradients and each block computes its own `h`. On a CPU the rows are processed in
pieces that stay in the cache. Which tokens are padding is known only after a forward, so the counts of the last forward
are kept per token until `take` is called.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

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
    """Zeroes inactive neurons and counts the active neurons of each token. Pass the method `see` to `tap.attach`."""

    def __init__(self, sites: Sequence[Site], thresholds: Thresholds):
        """Prepares the mask of all sites.

        Raises:
            InputError: If the thresholds are for other sites, or if their selection compares tokens with each other.
        """
        if not thresholds.selection.per_token:
            raise InputError(
                f"{thresholds.select} chooses the neurons of a token by other tokens of its window, and an evaluation"
                " scores texts of any length; evaluate a rule that looks at one token, e.g. top_k with --scope token"
            )
        self._mask = Mask(sites, thresholds)
        self.needs_gate, self.extra = self._mask.needs_gate, self._mask.extra
        # linears that share an input share the tensor too, so changing it in place would change all of them
        self._in_place = [site.kind != "linear_input" for site in sites]
        self.d_ff = [site.width for site in sites]
        self._counts: list[torch.Tensor | None] = [None] * len(sites)

    def see(self, index: int, rows: Rows) -> torch.Tensor:
        """`h` with inactive neurons at zero, shape `(rows, d_ff)`. `rows.h` may be changed in place."""
        limit = self._mask.cut(index, rows)
        if limit is None or not self._in_place[index]:
            change = self._mask.change(index, rows)
            counts, h = change.active.sum(-1), change.h
        else:
            counts, h = _drop(rows.h, self._mask.value(index, rows), limit), rows.h
        self._counts[index] = rows.per_token(counts[:, None]).sum(-1)
        return h

    def take(self, shape: tuple[int, int]) -> torch.Tensor:
        """Active neurons of each token in the last forward, shape `(n_sites, sequences, tokens)`, int64.

        The counts are removed, so that a block that does not run in the next forward is noticed.

        Args:
            shape: `(sequences, tokens)` of the last forward.
        """
        counts = [count for count in self._counts if count is not None]
        assert len(counts) == len(self._counts), "a feed-forward block did not run in this forward"
        self._counts = [None] * len(self._counts)
        return torch.stack([count.to(counts[0].device) for count in counts]).view(-1, *shape)


def _drop(rows: torch.Tensor, value: torch.Tensor, limit: torch.Tensor | float) -> torch.Tensor:
    """Zeroes `rows` in place where `|value|` is not above the limit.

    Returns: Active neurons of each row, shape `(rows,)`, int64.
    """
    step = max(1, _CACHE_VALUES // rows.shape[-1])
    if rows.is_cuda or len(rows) <= step:
        active = is_active(value, limit)
        rows.mul_(active)
        return active.sum(-1)
    per_row = isinstance(limit, torch.Tensor) and limit.ndim == 2
    limits = cast("Any", limit).split(step) if per_row else itertools.repeat(limit)
    pieces = zip(rows.split(step), value.split(step), limits)  # noqa: B905  (one limit may serve all pieces)
    return torch.cat([_drop(piece, seen, cut) for piece, seen, cut in pieces])
