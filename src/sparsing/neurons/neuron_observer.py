"""`NeuronObserver`: adds up the activity of every neuron in one dense pass over one corpus.

A neuron is active above its threshold, but no neuron is dropped, so the totals describe the dense model. The memory of
the totals depends on the model and not on the length of the corpus.
"""

from __future__ import annotations

import dataclasses
from typing import cast

import torch

from sparsing.measuring.passes import Observer, Totals
from sparsing.models.loading import LoadedModel
from sparsing.neurons.coactivation import pack_bits, sample_slots
from sparsing.neurons.contexts import TopContexts
from sparsing.rules.mask import Change, Mask
from sparsing.rules.scores import sizes
from sparsing.rules.thresholds import Thresholds
from sparsing.sites.site import Site
from sparsing.sites.tap import Rows
from sparsing.text.corpus import Batch, Corpus


@dataclasses.dataclass(eq=False)
class SiteTotals(Totals):
    """Running sums of one site, on its device."""

    count: torch.Tensor
    """Tokens on which each neuron is active, shape `(n_neurons,)`, int64."""
    size: torch.Tensor
    """Sum of `|h|` over tokens, shape `(n_neurons,)`, float64; of routed experts, of `|h|` times the routing weight."""
    bits: torch.Tensor
    """Activity on the sampled tokens, shape `(sample, ceil(n_neurons / 8))`, uint8."""
    contexts: TopContexts
    """Tokens at which each neuron is largest."""

    @classmethod
    def empty(cls, site: Site, sample: int, k: int) -> SiteTotals:
        """Totals before the first batch, for `sample` sampled tokens and `k` contexts per neuron."""
        device = site.device
        return cls(
            count=torch.zeros(site.n_neurons, dtype=torch.int64, device=device),
            size=torch.zeros(site.n_neurons, dtype=torch.float64, device=device),
            bits=torch.zeros(sample, -(-site.n_neurons // 8), dtype=torch.uint8, device=device),
            contexts=TopContexts.empty(site.n_neurons, k, device),
        )


@dataclasses.dataclass(eq=False)
class NeuronTotals(Totals):
    """Running sums of one corpus."""

    sites: list[SiteTotals]
    """Totals of each site."""
    vocabulary_ratio: torch.Tensor
    """Activation ratio summed over the occurrences of each token id, shape `(vocabulary,)`, float64."""
    vocabulary_count: torch.Tensor
    """Occurrences of each token id, shape `(vocabulary,)`, int64."""


class NeuronObserver(Observer[NeuronTotals]):
    """Adds up `NeuronTotals` of one corpus.

    Args:
        thresholds: A neuron is active above its threshold.
        sample: Number of tokens whose activity is kept bit by bit.
        contexts: Number of contexts kept per neuron.
    """

    def __init__(
        self, loaded: LoadedModel, corpus: Corpus, thresholds: Thresholds, *, sample: int, contexts: int
    ):
        vocabulary = cast("torch.Tensor", loaded.model.get_input_embeddings().weight).shape[0]
        device = loaded.sites[0].device
        super().__init__(
            NeuronTotals(
                sites=[SiteTotals.empty(site, sample, contexts) for site in loaded.sites],
                vocabulary_ratio=torch.zeros(vocabulary, dtype=torch.float64, device=device),
                vocabulary_count=torch.zeros(vocabulary, dtype=torch.int64, device=device),
            )
        )
        self._mask = Mask(loaded.sites, thresholds)
        self.needs_gate, self.extra = self._mask.needs_gate, self._mask.extra
        self._widths = [site.width for site in loaded.sites]
        self._num_tokens, self._sample, self._width = corpus.num_tokens, sample, corpus.width

    def begin(self, batch: Batch) -> None:
        # Everything that needs numbers on the host happens here: `see` runs in a hook and must not wait for the device.
        counted = batch.counted.flatten()
        self._places = counted.nonzero()[:, 0]
        count = len(self._places)
        chosen, slots = sample_slots(batch.counted_before, count, self._num_tokens, self._sample)
        self._sampled = self._places[torch.from_numpy(chosen).to(counted.device)]
        self._slots = torch.from_numpy(slots)
        self._counted, self._every = batch.counted, count == counted.numel()
        self._ids = batch.ids.flatten()[self._places]
        self._first = torch.from_numpy(batch.windows) * self._width
        place = self.totals.vocabulary_ratio.device
        self._ratio = torch.zeros(batch.ids.shape, dtype=torch.float32, device=place)
        self._mask.real = batch.real
        self._sites_to_come = len(self.totals.sites)

    def see(self, index: int, rows: Rows, change: Change | None) -> None:
        totals = self.totals.sites[index]
        active, h = self._mask.active(index, rows), rows.h.detach()
        sampled = self._sampled.to(h.device)
        if rows.routing is None:
            self._add(totals, slice(None), active, h)
            bits = active[sampled]
        else:
            d_ff, of_expert = h.shape[-1], rows.routing.rows_per_expert
            # each expert is a block of its own that only some tokens pass
            for expert, some in enumerate(of_expert):
                token = rows.routing.token[some]
                everywhere = h.new_zeros(rows.routing.n_tokens, d_ff)
                weighted = h[some] * rows.routing.weight[some, None].to(h.dtype)
                self._add(
                    totals,
                    slice(expert * d_ff, (expert + 1) * d_ff),
                    torch.zeros_like(everywhere, dtype=torch.bool).index_copy(0, token, active[some]),
                    everywhere.index_copy(0, token, weighted),
                )
            chosen, routing = rows.routing.of_tokens(sampled)
            bits = active.new_zeros(len(sampled), len(of_expert), d_ff)
            bits[routing.token, routing.expert] = active[chosen]
        totals.bits[self._slots.to(h.device)] = pack_bits(bits.flatten(1))
        per_row = active.view(torch.uint8).sum(-1, dtype=torch.int32)
        per_token = rows.per_token(per_row[:, None]).sum(-1, dtype=torch.int32)
        self._ratio += (per_token / self._widths[index]).view(self._ratio.shape).to(self._ratio.device)
        self._sites_to_come -= 1
        if not self._sites_to_come:
            self._count_vocabulary()

    def _add(self, totals: SiteTotals, neurons: slice, active: torch.Tensor, h: torch.Tensor) -> None:
        """Adds the activity of some neurons on all tokens of the batch; `active` and `h` are `(tokens, neurons)`."""
        shape = (*self._counted.shape, h.shape[-1])  # (windows, tokens, neurons)
        active, h = active.view(shape), h.view(shape)
        size = sizes(h, None)
        if (
            not self._every
        ):  # most batches have neither padding nor overlap, and masking costs a pass over `h`
            outside = ~self._counted.to(h.device)[..., None]
            size, active = size.masked_fill_(outside, 0), active.masked_fill(outside, False)
        # summing bytes into int32 is exact for one batch
        totals.count[neurons] += active.flatten(0, 1).view(torch.uint8).sum(0, dtype=torch.int32)
        totals.size[neurons] += size.flatten(0, 1).sum(0)
        totals.contexts.of_neurons(neurons).add(size, h, self._first.to(h.device))

    def _count_vocabulary(self) -> None:
        """Adds the mean ratio over sites of each token to its token id, after the last site of the batch."""
        device = self._ratio.device
        ids = self._ids.to(device)
        ratio = (self._ratio / len(self.totals.sites)).flatten()[self._places.to(device)].double()
        # the sum of the batch is one number, so that totals of several processes are added in the same order
        self.totals.vocabulary_ratio += torch.zeros_like(self.totals.vocabulary_ratio).index_add_(
            0, ids, ratio
        )
        self.totals.vocabulary_count.index_add_(0, ids, torch.ones_like(ids))
