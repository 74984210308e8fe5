"""Observers of a measurement: they count active neurons and measure the error of dropping the other neurons.

`SparseObserver` watches a pass that a mask makes sparse. Its CETT is on sparse inputs: the input of each layer
comes from sparse layers. `DenseErrorObserver` measures CETT on dense inputs, as CETT is defined. Both are exact:
they use every counted token and the model's own `down_proj`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from sparsing.measuring.active_counts import ActiveCounter, ActiveTotals, zero_counts
from sparsing.measuring.calibration import in_sample
from sparsing.measuring.cett import norm, relative_error
from sparsing.measuring.passes import Observer, Totals
from sparsing.measuring.shared_experts import OutputParts, find_shared, joint_error
from sparsing.measuring.threshold_grid import is_input
from sparsing.measuring.token_record import TokenRecord, TokenRecorder
from sparsing.rules.flag_counts import count_over_neurons
from sparsing.rules.mask import Change, Mask
from sparsing.sites.neuron_output import bias_output, neuron_output
from sparsing.sites.site import Site
from sparsing.sites.tap import Rows
from sparsing.text.corpus import Batch, Corpus

if TYPE_CHECKING:
    from sparsing.rules.thresholds import Thresholds

ERROR_SHARE = 1 / 8
"""The error of linear inputs in a sparse pass is measured on this share of the tokens ...

It costs a product with the matrix, so on all tokens it would double the time of a pass that changes all linears."""
ERROR_TOKENS = 256
"""... and on at least this many tokens, or all of them."""


@dataclasses.dataclass(eq=False)
class ErrorTotals(Totals):
    """CETT summed over counted tokens; one tensor per site, float64."""

    cett: list[torch.Tensor]
    """Shape `()`, or `(n_thresholds,)` where several thresholds are observed at once."""

    @property
    def stacked_cett(self) -> torch.Tensor:
        """Shape `(n_sites,)` or `(n_sites, n_thresholds)`."""
        return torch.stack(self.cett)


@dataclasses.dataclass(eq=False)
class SparseTotals(ErrorTotals, ActiveTotals):
    """Counts of active neurons with their errors, int64 and float64. Lists have one tensor per site."""

    position: list[torch.Tensor]
    """Active neurons summed over windows, by position in the window, shape `(width,)`."""
    error_tokens: torch.Tensor
    """Counted tokens that `cett` of a linear input is a sum over, shape `()`, on the CPU."""
    position_tokens: torch.Tensor
    """Counted tokens at each position, shape `(width,)`."""
    record: TokenRecord
    """Activations of the first tokens."""


def _error(
    dropped: torch.Tensor, output: torch.Tensor, bias: torch.Tensor | None, *, sparse: bool
) -> torch.Tensor:
    """CETT per token, shape `(tokens,)`.

    Args:
        dropped: Output of the dropped neurons alone, shape `(tokens, d_model)`.
        output: What `down_proj` gave; if it is `sparse`, the dropped part is not in it.
        bias: The part of `output` that the bias gave.
    """
    full = output if bias is None else output - bias  # the bias belongs to no neuron
    return relative_error(norm(dropped), norm(full + dropped if sparse else full))


@dataclasses.dataclass(eq=False)
class DenseErrorTotals(ErrorTotals):
    """CETT of several thresholds, summed over counted tokens."""

    with_shared: dict[str, torch.Tensor]
    """CETT of routed and shared experts together, shape `(n_thresholds,)`, by the name of the routed site."""


class DenseErrorObserver(Observer[DenseErrorTotals]):
    """Adds up the CETT that each of several thresholds would cause at each site, while the model stays dense."""

    needs_output = True

    def __init__(self, sites: Sequence[Site], several: Sequence[Thresholds]):
        zeros = [torch.zeros(len(several), dtype=torch.float64, device=site.device) for site in sites]
        self._shared = find_shared(sites)
        with_shared = {sites[index].name: torch.zeros_like(zeros[index]) for index in self._shared}
        super().__init__(DenseErrorTotals(cett=zeros, with_shared=with_shared))
        self.needs_block = bool(self._shared)
        # the parts of blocks with shared experts, until the block has run
        self._parts: dict[int, OutputParts] = {}
        self._sites = sites
        self._masks = [Mask(sites, thresholds) for thresholds in several]
        self.needs_gate = any(mask.needs_gate for mask in self._masks)
        self.extra = frozenset().union(*(mask.extra for mask in self._masks))
        self._dropped: list[torch.Tensor] = []

    def begin(self, batch: Batch) -> None:
        self._counted = batch.counted
        for mask in self._masks:
            mask.real = batch.real

    def see(self, index: int, rows: Rows, change: Change | None) -> None:
        site = self._sites[index]
        self._bias = bias_output(site, rows)
        changes = [mask.change(index, rows) for mask in self._masks]
        self._dropped = [neuron_output(site, rows.h - change.h, rows) for change in changes]

    def see_output(self, index: int, output: torch.Tensor) -> None:
        counted = self._counted.flatten().to(output.device)
        for place, dropped in enumerate(self._dropped):
            error = _error(dropped, output, self._bias, sparse=False)
            self.totals.cett[index][place] += (error * counted).sum(dtype=torch.float64)
        if index in self._shared or index in self._shared.values():
            # a copy, since some blocks add the other part to this tensor in place
            self._parts[index] = OutputParts(self._dropped, output.clone(), self._bias)
        self._dropped = []

    def see_block(self, index: int, output: torch.Tensor) -> None:
        if index not in self._shared:
            return
        routed, shared = self._parts.pop(index), self._parts.pop(self._shared[index])
        counted = self._counted.flatten().to(output.device)
        total = self.totals.with_shared[self._sites[index].name]
        for place, error in enumerate(joint_error(routed, shared, output)):
            total[place] += (error * counted).sum(dtype=torch.float64)


class SparseObserver(Observer[SparseTotals]):
    """Counts active neurons by window, site, neuron and position, and adds up the CETT on sparse inputs."""

    needs_output = True

    def __init__(self, sites: Sequence[Site], corpus: Corpus):
        def by_position(site: Site) -> torch.Tensor:
            return torch.zeros(corpus.width, dtype=torch.int64, device=site.device)

        self._recorder = TokenRecorder(sites, corpus)
        totals = SparseTotals(
            cett=[torch.zeros((), dtype=torch.float64, device=site.device) for site in sites],
            **vars(zero_counts(sites, corpus)),
            position=[by_position(site) for site in sites],
            error_tokens=torch.zeros((), dtype=torch.int64),
            position_tokens=by_position(sites[0]),
            record=self._recorder.record,
        )
        super().__init__(totals)
        self._sites, self._counter = sites, ActiveCounter(sites, totals)
        self._error_share = min(1.0, max(ERROR_SHARE, ERROR_TOKENS / max(corpus.num_tokens, 1)))

    def begin(self, batch: Batch) -> None:
        self._counter.begin(batch)
        self._counted, self._span = batch.counted, batch.span
        self._few = (batch.counted & in_sample(batch.place, self._error_share)).flatten().nonzero()[:, 0]
        self.totals.error_tokens += len(self._few)
        at = self.totals.position_tokens
        at[: batch.counted.shape[1]] += batch.counted.sum(0).to(at.device)

    def see(self, index: int, rows: Rows, change: Change | None) -> None:
        assert change is not None, "a sparse pass needs an intervention"
        site = self._sites[index]
        self._counter.add(index, change.active, rows)
        per_token = self._per_token(change.active, rows)
        self.totals.position[index][: per_token.shape[1]] += per_token.sum(0)
        self._recorder.add(index, self._span, per_token.double() / site.width, rows)
        kept = change.h
        if is_input(site):
            few = self._few.to(kept.device)
            rows, kept = rows.of_tokens(few, gate=False), kept[few]
        self._dropped, self._bias = neuron_output(site, rows.h - kept, rows), bias_output(site, rows)

    def see_output(self, index: int, output: torch.Tensor) -> None:
        counted = self._counted.flatten()
        if is_input(self._sites[index]):
            counted, output = counted[self._few], output[self._few.to(output.device)]
        error = _error(self._dropped, output, self._bias, sparse=True)
        self.totals.cett[index] += (error * counted.to(error.device)).sum(dtype=torch.float64)

    def _per_token(self, active: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Active neurons of each token, 0 where it does not count, shape `(windows, tokens)`, int64."""
        per_row = count_over_neurons(active)
        per_token = per_row if rows.routing is None else rows.routing.per_token(per_row).sum(-1)
        counted = self._counted.to(active.device)
        return per_token.view(counted.shape) * counted
