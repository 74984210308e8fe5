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


@dataclasses.dataclass(eq=False)
class OverlapTotals(Totals):
    """Counts over tokens; one tensor per site, shape `(n_pairs,)`, int64."""

    both: list[torch.Tensor]
    either: list[torch.Tensor]


class OverlapObserver(Observer[OverlapTotals]):
    """Counts the neurons that both and one of two rules would keep, for each pair of rules on the same sites."""

    def __init__(self, sites: Sequence[Site], several: Sequence[Thresholds]):
        self.pairs = list(itertools.combinations(range(len(several)), 2))

        def zeros() -> list[torch.Tensor]:
            return [torch.zeros(len(self.pairs), dtype=torch.int64, device=site.device) for site in sites]

        super().__init__(OverlapTotals(both=zeros(), either=zeros()))
        self._masks = [Mask(sites, thresholds) for thresholds in several]
        self.needs_gate = any(mask.needs_gate for mask in self._masks)
        self.extra = frozenset().union(*(mask.extra for mask in self._masks))

    def begin(self, batch: Batch) -> None:
        self._counted = batch.counted
        for mask in self._masks:
            mask.real = batch.real

    def see(self, index: int, rows: Rows, change: Change | None) -> None:
        counted = self._counted.flatten().to(rows.h.device)
        of_row = counted if rows.routing is None else counted[rows.routing.token]
        sets = [mask.active(index, rows) & of_row[:, None] for mask in self._masks]
        for place, (i, j) in enumerate(self.pairs):
            self.totals.both[index][place] += (sets[i] & sets[j]).sum()
            self.totals.either[index][place] += (sets[i] | sets[j]).sum()

    def jaccard(self) -> dict[tuple[int, int], float]:
        """Pair of indices to its overlap, after the pass; 1 for two rules that keep nothing."""
        both, either = (torch.stack(counts).sum(0) for counts in (self.totals.both, self.totals.either))
        share = torch.where(either > 0, both / either.clamp_min(1), 1.0)
        return {pair: float(share[place]) for place, pair in enumerate(self.pairs)}
