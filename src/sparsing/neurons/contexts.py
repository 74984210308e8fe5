"""The places where each neuron is largest, while the corpus streams by.

A window is cut into stretches of `STRETCH` tokens and a neuron's contexts are the largest token of each of its
`k` best stretches: the strongest places of a neuron often lie side by side, and one look at each says more. It
also makes the search cheap: a batch is reduced to one number per stretch, and once the corpus has run for a
while few of these beat what is already kept.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F

from sparsing.measuring.passes import Totals

STRETCH = 32
"""Tokens; contexts of one neuron come from different stretches."""


@dataclasses.dataclass(eq=False)
class TopContexts(Totals):
    """The contexts of one site."""

    value: torch.Tensor
    """`h` at the place, its sign kept, largest size first, shape `(k, d_ff)`; 0 where fewer than `k` were found."""
    place: torch.Tensor
    """Number of the window times the width of the corpus, plus the position in the window; -1 for none."""

    @classmethod
    def empty(cls, d_ff: int, k: int, device: torch.device) -> TopContexts:
        """No contexts yet."""
        return cls(
            value=torch.zeros(k, d_ff, device=device),
            place=torch.full((k, d_ff), -1, dtype=torch.int64, device=device),
        )

    def merge(self, other: Totals) -> None:
        """Keep the best of both parts; they come from different windows, so no stretch is in both."""
        assert isinstance(other, TopContexts)
        theirs = other.value.to(self.value.device), other.place.to(self.place.device)
        value, place, _ = merged([(self.value, self.place), theirs])
        self.value.copy_(value)
        self.place.copy_(place)

    def add(self, size: torch.Tensor, h: torch.Tensor, first_place: torch.Tensor) -> torch.Tensor:
        """A batch.

        Args:
            size: `|h|`, 0 where a token does not count, shape `(windows, tokens, d_ff)`, float32.
            h: Same shape.
            first_place: Place of position 0 of each window, shape `(windows,)`, int64.

        Returns: the largest size of each neuron in the batch, shape `(d_ff,)`.
        """
        k = len(self.value)
        size = F.pad(size, (0, 0, 0, -size.shape[1] % STRETCH))
        cut = size.view(size.shape[0], -1, STRETCH, size.shape[2])  # (windows, stretches, STRETCH, d_ff)
        best = cut.amax(2).flatten(0, 1)  # (windows * stretches, d_ff)
        most = best.amax(0)
        better = (most > self.value[-1].abs()).nonzero()[:, 0]
        if len(better) == 0:
            return most
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


def merged(
    parts: list[tuple[torch.Tensor, torch.Tensor]],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The best of several corpora: values, places, and which corpus, each of shape `(k, d_ff)`."""
    k = len(parts[0][0])
    value, place = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    order = value.abs().topk(k, dim=0).indices
    return value.gather(0, order), place.gather(0, order), order // k
