"""The contexts of each neuron: the tokens at which it is largest, found while the corpus streams by.

A window is cut into stretches of `STRETCH` tokens, and a neuron's contexts are the largest token of each of its `k`
best stretches. The largest tokens of a neuron are often neighbours, so contexts from different stretches show more. The
stretches also make the search cheap: a batch is reduced to one number per stretch and neuron, and after a while few of
these numbers exceed the contexts that are kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from sparsing.measuring.passes import Totals

STRETCH = 32
"""Tokens of a stretch; contexts of one neuron come from different stretches."""


@dataclasses.dataclass(eq=False)
class TopContexts(Totals):
    """The `k` best contexts of every neuron of one layer."""

    value: torch.Tensor
    """`h` at the token with its sign, largest absolute value first, shape `(k, d_ff)`; 0 for none."""
    place: torch.Tensor
    """Index of the window times the width of the corpus, plus the position in the window; -1 for none."""

    @classmethod
    def empty(cls, d_ff: int, k: int, device: torch.device) -> TopContexts:
        """No contexts yet."""
        return cls(
            value=torch.zeros(k, d_ff, device=device),
            place=torch.full((k, d_ff), -1, dtype=torch.int64, device=device),
        )

    def merge(self, other: Totals) -> None:
        """Keep the best contexts of both parts, which come from different windows."""
        assert isinstance(other, TopContexts)
        value = torch.cat([self.value, other.value.to(self.value.device)])
        place = torch.cat([self.place, other.place.to(self.place.device)])
        order = value.abs().topk(len(self.value), dim=0).indices
        self.value.copy_(value.gather(0, order))
        self.place.copy_(place.gather(0, order))

    def add(self, size: torch.Tensor, h: torch.Tensor, first_place: torch.Tensor) -> torch.Tensor:
        """Update the contexts with one batch.

        Args:
            size: `|h|`, 0 where a token does not count, shape `(windows, tokens, d_ff)`, float32.
            h: Inputs of `down_proj`, same shape.
            first_place: Place of position 0 of each window, shape `(windows,)`, int64.

        Returns:
            The largest size of each neuron in the batch, shape `(d_ff,)`.
        """
        k = len(self.value)
        size = F.pad(size, (0, 0, 0, -size.shape[1] % STRETCH))
        cut = size.view(size.shape[0], -1, STRETCH, size.shape[2])  # (windows, stretches, STRETCH, d_ff)
        best = cut.amax(2).flatten(0, 1)  # (windows * stretches, d_ff)
        most = best.amax(0)
        # Only neurons that exceed their worst kept context are sorted again, and soon these are few. `nonzero` waits
        # for the device, since the shape of its result depends on the data, but it moves a single number to the host
        # and saves sorting all neurons.
        better = (most > self.value[-1].abs()).nonzero()[:, 0]
        if len(better) == 0:
            return most
        # The kept contexts come first, so that on equal sizes the earlier token stays.
        ranked = torch.cat([self.value[:, better].abs(), best[:, better]]).topk(k, dim=0)
        old = ranked.indices.clamp(max=k - 1)
        value, place = self.value[:, better].gather(0, old), self.place[:, better].gather(0, old)
        rank, column = ((ranked.indices >= k) & (ranked.values > 0)).nonzero(as_tuple=True)
        stretch = ranked.indices[rank, column] - k
        window, part = stretch // cut.shape[1], stretch % cut.shape[1]
        neuron = better[column]
        position = part * STRETCH + cut[window, part, :, neuron].argmax(-1)
        value[rank, column] = h[window, position, neuron].float()
        place[rank, column] = first_place[window] + position
        empty = ranked.values == 0
        self.value[:, better] = value.masked_fill(empty, 0)
        self.place[:, better] = place.masked_fill(empty, -1)
        return most


@dataclasses.dataclass(frozen=True, eq=False)
class LayerContexts:
    """The contexts of one layer over all corpora of a study; arrays have shape `(k, d_ff)`, largest value first."""

    value: np.ndarray
    """`neuron_norm` with the sign of `h`; 0 for a context that does not exist."""
    place: np.ndarray
    """Window times width plus position, in its corpus; -1 for a context that does not exist."""
    corpus: np.ndarray
    """Index of the corpus."""


def merge_contexts(parts: Sequence[TopContexts], column_norms: torch.Tensor) -> LayerContexts:
    """The best contexts of a layer over several corpora.

    Args:
        parts: The contexts in each corpus.
        column_norms: Norm of each column of `down_proj`, shape `(d_ff,)`, which turns `h` into `neuron_norm`.
    """
    k = len(parts[0].value)
    value, place = torch.cat([part.value for part in parts]), torch.cat([part.place for part in parts])
    order = value.abs().topk(k, dim=0).indices
    return LayerContexts(
        value=(value.gather(0, order).cpu() * column_norms.cpu()).numpy(),
        place=place.gather(0, order).cpu().numpy(),
        corpus=(order // k).cpu().numpy(),
    )
