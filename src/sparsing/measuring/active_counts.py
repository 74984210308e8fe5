"""Counts of active neurons in a sparse pass: by window, by site and by neuron.

`ActiveObserver` counts nothing else, so a pass with it costs little more than a dense pass. Comparisons of rules need
no more. `SparseObserver` (`observers.py`) adds errors, positions and the first tokens, for measurements.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from sparsing.measuring.passes import Observer, Totals
from sparsing.rules.flag_counts import count_over_neurons, count_over_tokens
from sparsing.rules.mask import Change
from sparsing.sites.site import Site
from sparsing.sites.tap import Rows
from sparsing.text.corpus import Batch, Corpus


@dataclasses.dataclass(eq=False)
class ActiveTotals(Totals):
    """Counts of active neurons, int64. Lists have one tensor per site."""

    active: list[torch.Tensor]
    """Active neurons summed over the counted tokens of each window, shape `(n_windows,)`."""
    neuron: list[torch.Tensor]
    """Counted tokens on which each neuron is active, shape `(n_neurons,)`."""
    load: dict[str, torch.Tensor]
    """Counted tokens that are routed to each expert, shape `(n_experts,)`, by the name of each site of routed experts.
    """
    tokens: torch.Tensor
    """Counted tokens of each window, shape `(n_windows,)`."""

    def add_part(self, other: ActiveTotals, windows: NDArray[np.int64]) -> None:
        """Adds the counts of a pass over some of the windows.

        Args:
            windows: The indices of these windows in the corpus of `self`.
        """
        at = torch.as_tensor(windows)
        for mine, its in zip([*self.active, self.tokens], [*other.active, other.tokens], strict=True):
            mine[at.to(mine.device)] += its.to(mine.device)
        for mine, its in zip(self.neuron, other.neuron, strict=True):
            mine += its.to(mine.device)
        for site, load in other.load.items():
            self.load[site] += load.to(self.load[site].device)


def zero_counts(sites: Sequence[Site], corpus: Corpus) -> ActiveTotals:
    """Totals before the first batch, on the devices of the sites."""

    def zeros(shape: int, site: Site) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.int64, device=site.device)

    return ActiveTotals(
        active=[zeros(corpus.n_windows, site) for site in sites],
        neuron=[zeros(site.n_neurons, site) for site in sites],
        load={site.name: zeros(site.n_experts, site) for site in sites if site.kind == "expert"},
        tokens=zeros(corpus.n_windows, sites[0]),
    )


class ActiveCounter:
    """Adds the active sets of a batch to totals, for the observers that have such totals."""

    def __init__(self, sites: Sequence[Site], totals: ActiveTotals):
        self._sites, self._totals = sites, totals

    def begin(self, batch: Batch) -> None:
        """Called before a batch runs."""
        self._counted, self._span = batch.counted, batch.span
        self._others = (~batch.counted).nonzero()  # window and token of each token that does not count
        totals = self._totals
        totals.tokens[batch.span] = batch.counted.sum(-1).to(totals.tokens.device)

    def add(self, index: int, active: torch.Tensor, rows: Rows) -> None:
        """Adds the active set of one site, shape `(rows, d_ff)`, bool."""
        totals, routing, counted = self._totals, rows.routing, self._counted.to(active.device)
        if routing is None:
            active = active.view(*counted.shape, -1)
            per_window = count_over_tokens(active)  # (windows, d_ff)
            if len(self._others):  # to subtract them is cheaper than to clear their flags
                windows, tokens = self._others.to(active.device).T
                per_window.index_add_(0, windows, active[windows, tokens].int(), alpha=-1)
            totals.neuron[index] += per_window.sum(0)
            totals.active[index][self._span] = per_window.sum(1)
            return
        of_row = counted.flatten()[routing.token, None]
        active = active & of_row if len(self._others) else active
        per_token = routing.per_token(count_over_neurons(active)).sum(-1).view(counted.shape)
        totals.neuron[index] += routing.counts_per_expert(active).flatten()
        totals.load[self._sites[index].name] += routing.counts_per_expert(of_row)[:, 0]
        totals.active[index][self._span] = per_token.sum(-1)


class ActiveObserver(Observer[ActiveTotals]):
    """Counts active neurons by window, site and neuron."""

    def __init__(self, sites: Sequence[Site], corpus: Corpus):
        super().__init__(zero_counts(sites, corpus))
        self._counter = ActiveCounter(sites, self.totals)

    def begin(self, batch: Batch) -> None:
        self._counter.begin(batch)

    def see(self, index: int, rows: Rows, change: Change | None) -> None:
        assert change is not None, "active neurons need an intervention"
        self._counter.add(index, change.active, rows)
