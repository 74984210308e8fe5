"""Observers of a measurement: which neurons are active where, and the error that dropping the others makes.

`SparseObserver` watches a model that a mask makes sparse. The CETT it measures is on sparse inputs: each layer
sees what the sparse layers before it give. `DenseErrorObserver` measures CETT on dense inputs, as CETT is
defined. Both are exact: they use every counted token and the true `down_proj`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from sparsing.measuring.cett import norm, relative_error
from sparsing.measuring.passes import Observer, Totals
from sparsing.measuring.token_record import TokenRecord, TokenRecorder
from sparsing.rules.mask import Change, Mask
from sparsing.sites.site import Site
from sparsing.sites.tap import Rows
from sparsing.text.corpus import Batch, Corpus

if TYPE_CHECKING:
    from sparsing.rules.thresholds import Thresholds


@dataclasses.dataclass(eq=False)
class ErrorTotals(Totals):
    """CETT summed over counted tokens; one scalar per site, float64."""

    cett: list[torch.Tensor]

    @property
    def stacked_cett(self) -> torch.Tensor:
        """Shape `(n_sites,)`."""
        return torch.stack(self.cett)


@dataclasses.dataclass(eq=False)
class SparseTotals(ErrorTotals):
    """Counts of active neurons; lists have one tensor per site. All counts are int64."""

    active: list[torch.Tensor]
    """Active neurons summed over the counted tokens of each window, shape `(n_windows,)`."""
    neuron: list[torch.Tensor]
    """Counted tokens on which each neuron is active, shape `(d_ff,)`."""
    position: list[torch.Tensor]
    """Active neurons summed over windows, by position in the window, shape `(width,)`."""
    tokens: torch.Tensor
    """Counted tokens of each window, shape `(n_windows,)`."""
    position_tokens: torch.Tensor
    """Counted tokens at each position, shape `(width,)`."""
    record: TokenRecord


class _ErrorSum:
    """Adds up the CETT of each site: the norm of the dropped part over the norm of the full output."""

    def __init__(self, sites: Sequence[Site], cett: list[torch.Tensor]):
        self._sites, self._cett = sites, cett
        self._dropped: torch.Tensor | None = None
        self._counted = torch.zeros(0)

    def begin(self, batch: Batch) -> None:
        self._counted = batch.counted

    def drop(self, index: int, h: torch.Tensor) -> None:
        """`h` holds the dropped neurons, and zero elsewhere."""
        self._dropped = h @ self._sites[index].weight.detach().T  # (rows, d_model)

    def add(self, index: int, output: torch.Tensor, *, sparse: bool) -> None:
        """`output` is what `down_proj` gave; if it is `sparse`, the dropped part is not in it."""
        dropped, bias = self._dropped, self._sites[index].bias
        assert dropped is not None, "down_proj ran without its input being seen"
        full = output if bias is None else output - bias
        error = relative_error(norm(dropped), norm(full + dropped if sparse else full))
        counted = self._counted.flatten().to(error.device)
        self._cett[index] += (error * counted).sum(dtype=torch.float64)
        self._dropped = None


def _scalars(sites: Sequence[Site]) -> list[torch.Tensor]:
    return [torch.zeros((), dtype=torch.float64, device=site.device) for site in sites]


class DenseErrorObserver(Observer[ErrorTotals]):
    """Adds up the CETT that thresholds would cause at each site, while the model stays dense."""

    needs_output = True

    def __init__(self, sites: Sequence[Site], thresholds: Thresholds):
        super().__init__(ErrorTotals(_scalars(sites)))
        self._mask = Mask(sites, thresholds)
        self.needs_gate = self._mask.needs_gate
        self._error = _ErrorSum(sites, self.totals.cett)

    def begin(self, batch: Batch) -> None:
        self._mask.real = batch.real
        self._error.begin(batch)

    def see(self, index: int, rows: Rows, change: Change | None) -> None:
        self._error.drop(index, rows.h * ~self._mask.active(index, rows))

    def see_output(self, index: int, output: torch.Tensor) -> None:
        self._error.add(index, output, sparse=False)


class SparseObserver(Observer[SparseTotals]):
    """Counts active neurons per window, site, neuron and position, and the CETT on sparse inputs."""

    needs_output = True

    def __init__(self, sites: Sequence[Site], corpus: Corpus):
        def zeros(shape: int, site: Site) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=site.device)

        self._recorder = TokenRecorder(sites, corpus)
        totals = SparseTotals(
            cett=_scalars(sites),
            active=[zeros(corpus.n_windows, site) for site in sites],
            neuron=[zeros(site.d_ff, site) for site in sites],
            position=[zeros(corpus.width, site) for site in sites],
            tokens=zeros(corpus.n_windows, sites[0]),
            position_tokens=zeros(corpus.width, sites[0]),
            record=self._recorder.record,
        )
        super().__init__(totals)
        self._error = _ErrorSum(sites, totals.cett)

    def begin(self, batch: Batch) -> None:
        self._error.begin(batch)
        self._counted, self._span = batch.counted, batch.span
        place = self.totals.tokens.device
        self.totals.tokens[batch.span] = batch.counted.sum(-1).to(place)
        self.totals.position_tokens[: batch.counted.shape[1]] += batch.counted.sum(0).to(place)

    def see(self, index: int, rows: Rows, change: Change | None) -> None:
        assert change is not None, "a sparse pass needs an intervention"
        ratio = self._count(index, change.active)
        self._recorder.add(index, self._span, ratio, rows.h)
        self._error.drop(index, rows.h - change.h)

    def see_output(self, index: int, output: torch.Tensor) -> None:
        self._error.add(index, output, sparse=True)

    def _count(self, index: int, active: torch.Tensor) -> torch.Tensor:
        """Add up the active set; returns the activation ratio per token, shape `(windows, tokens)`, float64."""
        totals, d_ff = self.totals, active.shape[-1]
        counted = self._counted.to(active.device)
        active = active.view(*counted.shape, d_ff) & counted[..., None]
        per_token = active.view(torch.uint8).sum(-1, dtype=torch.int32)  # (windows, tokens)
        totals.active[index][self._span] = per_token.sum(-1)
        totals.neuron[index] += active.flatten(0, 1).sum(0, dtype=torch.int32)
        totals.position[index][: per_token.shape[1]] += per_token.sum(0)
        return per_token.double() / d_ff
