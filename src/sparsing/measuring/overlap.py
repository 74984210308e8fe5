"""Counts how much the active sets of rules agree, for `RuleOverlap`: on the inputs of the dense model, pair by pair."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from sparsing.measuring.passes import Observer, Totals
from sparsing.rules.mask import Change, Mask
from sparsing.sites.tap import Rows
from sparsing.text.corpus import Batch

if TYPE_CHECKING:
    from sparsing.rules.thresholds import Thresholds
    from sparsing.sites.site import Site

_ROWS = 128
"""Rows whose sets are compared at once; more would need more memory."""


@dataclasses.dataclass(eq=False)
class OverlapTotals(Totals):
    """Counts over tokens."""

    both: list[torch.Tensor]
    """Neurons that both of two rules keep, shape `(n_rules, n_rules)`, float64; one tensor per site."""


class OverlapObserver(Observer[OverlapTotals]):
    """Counts the neurons that both and one of two rules would keep, for each pair of rules on the same sites."""

    def __init__(self, sites: Sequence[Site], several: Sequence[Thresholds]):
        shape = (len(several), len(several))
        both = [torch.zeros(shape, dtype=torch.float64, device=site.device) for site in sites]
        super().__init__(OverlapTotals(both=both))
        self._masks = [Mask(sites, thresholds) for thresholds in several]
        self.needs_gate = any(mask.needs_gate for mask in self._masks)
        self.extra = frozenset().union(*(mask.extra for mask in self._masks))

    def begin(self, batch: Batch) -> None:
        self._counted = batch.counted
        for mask in self._masks:
            mask.real = batch.real

    def see(self, index: int, rows: Rows, change: Change | None) -> None:
        counted = self._counted.flatten().to(rows.h.device)
        of_row = (counted if rows.routing is None else counted[rows.routing.token]).view(torch.uint8)
        # bytes, which PyTorch converts to floats several times as fast as booleans
        sets = [mask.active(index, rows).view(torch.uint8) for mask in self._masks]
        # Products of matrices of zeros and ones count exactly in float32 below 2**24 neurons.
        for begin in range(0, len(sets[0]), _ROWS):
            some = slice(begin, begin + _ROWS)
            flat = torch.stack([flags[some] for flags in sets]) * of_row[some, None]
            flat = flat.flatten(1).float()
            self.totals.both[index] += flat @ flat.T

    def jaccard(self) -> dict[tuple[int, int], float]:
        """Pair of indices to its overlap, after the pass; 1 for two rules that keep nothing."""
        both = torch.stack(self.totals.both).sum(0)
        own = both.diagonal()
        either = own[:, None] + own - both
        share = torch.where(either > 0, both / either.clamp_min(1), 1.0)
        return {(i, j): float(share[i, j]) for i, j in itertools.combinations(range(len(both)), 2)}
