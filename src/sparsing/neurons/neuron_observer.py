"""Adds up what each neuron does in one dense pass; memory depends on the model, never on the corpus.

Active means above the thresholds, as everywhere; the model is left dense, so this is what its neurons do
before anything is dropped. Totals lie per layer on that layer's device.
"""

from __future__ import annotations

import dataclasses

import torch

from sparsing.measuring.passes import Watcher
from sparsing.models.loading import LoadedModel
from sparsing.neurons.coactivation import pack, sample_slots
from sparsing.neurons.contexts import TopContexts
from sparsing.rules.mask import Mask
from sparsing.rules.scores import sizes
from sparsing.rules.thresholds import Thresholds
from sparsing.sites.site import FFNSite
from sparsing.text.corpus import Batch, Corpus


@dataclasses.dataclass(eq=False)
class LayerTotals:
    """Running sums of one layer; the fields are what a pass saves."""

    count: torch.Tensor
    """Tokens on which each neuron is active, shape `(d_ff,)`, int64."""
    size: torch.Tensor
    """Sum of `|h|` over tokens, shape `(d_ff,)`, float64."""
    bits: torch.Tensor
    """Activity on the sampled tokens, shape `(sample, d_ff / 8)`, uint8."""
    contexts: TopContexts

    @classmethod
    def empty(cls, site: FFNSite, sample: int, k: int) -> LayerTotals:
        device = site.weight.device
        return cls(
            count=torch.zeros(site.d_ff, dtype=torch.int64, device=device),
            size=torch.zeros(site.d_ff, dtype=torch.float64, device=device),
            bits=torch.zeros(sample, -(-site.d_ff // 8), dtype=torch.uint8, device=device),
            contexts=TopContexts(site.d_ff, k, device),
        )

    def named(self, layer: int) -> dict[str, torch.Tensor]:
        return {
            f"count.{layer}": self.count,
            f"size.{layer}": self.size,
            f"bits.{layer}": self.bits,
            f"value.{layer}": self.contexts.value,
            f"place.{layer}": self.contexts.place,
        }


class NeuronWatcher(Watcher):
    """For one corpus; `layers` are its running sums."""

    def __init__(
        self, loaded: LoadedModel, corpus: Corpus, thresholds: Thresholds, *, sample: int, contexts: int
    ):
        super().__init__()
        self._mask = Mask(loaded.sites, thresholds)
        self.needs_gate = self._mask.needs_gate
        self._num_tokens, self._sample, self._width = corpus.num_tokens, sample, corpus.width
        self.layers = [LayerTotals.empty(site, sample, contexts) for site in loaded.sites]
        embedding: torch.Tensor = loaded.model.get_input_embeddings().weight  # pyright: ignore[reportAssignmentType]
        vocabulary = embedding.shape[0]
        self.totals |= {
            "seen": torch.zeros(1, dtype=torch.int64),
            "vocabulary_ratio": torch.zeros(vocabulary, dtype=torch.float64),
            "vocabulary_count": torch.zeros(vocabulary, dtype=torch.int64),
        }
        for layer, totals in enumerate(self.layers):
            self.totals |= totals.named(layer)

    def begin(self, batch: Batch) -> None:
        counted = batch.counted.flatten()
        count, seen = int(counted.sum()), int(self.totals["seen"])
        chosen, slots = sample_slots(seen, count, self._num_tokens, self._sample)
        self._rows = counted.nonzero()[:, 0][torch.from_numpy(chosen).to(counted.device)]
        self._slots = torch.from_numpy(slots)
        self._counted, self._every = batch.counted, count == counted.numel()
        self._ids = batch.ids[batch.counted].cpu()
        self._first = torch.from_numpy(batch.windows) * self._width
        self._ratio = torch.zeros(batch.ids.shape, dtype=torch.float32)
        self._mask.counted = batch.real
        self.totals["seen"] += count

    def on_ffn(self, layer: int, gate: torch.Tensor, h: torch.Tensor) -> None:
        totals, device, shape = self.layers[layer], h.device, (*self._counted.shape, h.shape[-1])
        active, h = self._mask.active(layer, gate, h).view(shape), h.detach().view(shape)
        size = sizes(h, None)
        if not self._every:
            outside = ~self._counted.to(device)
            size[outside], active[outside] = 0, False
        flat = active.flatten(0, 1)
        totals.count += flat.view(torch.uint8).sum(0, dtype=torch.int32)
        totals.size += size.flatten(0, 1).sum(0)
        totals.bits[self._slots.to(device)] = pack(flat[self._rows.to(device)])
        totals.contexts.add(size, h, self._first.to(device))
        self._ratio += (active.view(torch.uint8).sum(-1, dtype=torch.int32) / shape[-1]).cpu()
        if layer == len(self.layers) - 1:
            self._count_vocabulary()

    def _count_vocabulary(self) -> None:
        ratio = (self._ratio / len(self.layers))[self._counted.cpu()].double()
        self.totals["vocabulary_ratio"].index_add_(0, self._ids, ratio)
        self.totals["vocabulary_count"].index_add_(0, self._ids, torch.ones_like(self._ids))
