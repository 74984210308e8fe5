"""The contexts of each neuron: the tokens at which it is largest, found while the corpus streams by.

A window is cut into stretches of `STRETCH` tokens, and a neuron's contexts are the largest token of each of its `k`
best stretches. The largest tokens of a neuron are often neighbours, so contexts from different stretches show more. The
stretches also make the search cheap: a batch is reduced to one number per stretch and neuron, and after a while few of
these numbers exceed the contexts that are kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

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

    def of_neurons(self, neurons: slice) -> TopContexts:
        """The contexts of some neurons. They share their memory with these contexts."""
        return TopContexts(self.value[:, neurons], self.place[:, neurons])

    def merge(self, other: Totals) -> None:
        """Keep the best contexts of both parts, which come from different windows."""
        assert isinstance(other, TopContexts)
        value = torch.cat([self.value, other.value.to(self.value.device)])
        place = torch.cat([self.place, other.place.to(self.place.device)])
        order = _largest(value.abs(), len(self.value)).indices
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
        columns = _columns_to_sort(most, self.value[-1].abs())
        if len(columns) == 0:
            return most
        # The kept contexts come first, so that on equal sizes the earlier token stays.
        ranked = _largest(torch.cat([self.value[:, columns].abs(), best[:, columns]]), k)
        old = ranked.indices.clamp(max=k - 1)
        stretch = (ranked.indices - k).clamp(min=0)
        window, part = stretch // cut.shape[1], stretch % cut.shape[1]
        neuron = columns.expand_as(window)
        position = part * STRETCH + cut[window, part, :, neuron].argmax(-1)  # (k, len(columns))
        is_new, is_empty = ranked.indices >= k, ranked.values == 0
        # a position in the padding of the last stretch has size 0, so it is never new
        new_value = h[window, position.clamp(max=h.shape[1] - 1), neuron].float()
        value = torch.where(is_new, new_value, self.value[:, columns].gather(0, old))
        place = torch.where(is_new, first_place[window] + position, self.place[:, columns].gather(0, old))
        self.value[:, columns] = value.masked_fill(is_empty, 0)
        self.place[:, columns] = place.masked_fill(is_empty, -1)
        return most


class _Ranked(NamedTuple):
    """The largest sizes of each column, shape `(k, columns)`."""

    values: torch.Tensor
    indices: torch.Tensor


def _largest(sizes: torch.Tensor, k: int) -> _Ranked:
    """Values and indices of the `k` largest sizes of each column; of equal sizes the earlier ones, unlike `topk`."""
    values, indices = sizes.sort(dim=0, descending=True, stable=True)
    return _Ranked(values[:k], indices[:k])


def _columns_to_sort(most: torch.Tensor, worst: torch.Tensor) -> torch.Tensor:
    """Indices of the neurons whose contexts may change, given their largest size and their worst kept context.

    On a CPU these are the neurons that exceed their worst context, soon few of them. On an accelerator all neurons are
    sorted, because to select some the host would have to wait until the device knows how many they are.
    """
    if most.device.type == "cpu":
        return (most > worst).nonzero()[:, 0]
    return torch.arange(len(most), device=most.device)


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
