"""Activation ratio while a task ran, for the tokens of prompts (prefill) and for generated ones (decode).

A decode forward is one whose input is one token per sequence with a cache behind it. Padding never counts,
nor do tokens that a batch goes on to generate for a sequence after its stop string.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparsing.base.results import Result

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Activity(Result):
    """Active neurons of one phase."""

    kind = "task_activity"

    num_tokens: int
    """Counted tokens."""
    layer_activation_ratio: tuple[float, ...]
    """Mean over tokens, one number per layer; empty where no token counts."""

    @property
    def activation_ratio(self) -> float:
        """Mean over tokens, then over layers; NaN where no token counts."""
        ratios = self.layer_activation_ratio
        return sum(ratios) / len(ratios) if ratios else float("nan")


class Tally:
    """Running sums of one phase: tokens, and active neurons per layer, shape `(n_layers,)`, int64."""

    def __init__(self, n_layers: int):
        import torch

        self.tokens = torch.zeros((), dtype=torch.int64)
        self.active = torch.zeros(n_layers, dtype=torch.int64)

    def add(self, counts: torch.Tensor, real: torch.Tensor) -> None:
        """Add counts of shape `(n_layers, sequences, tokens)` where `real`, `(sequences, tokens)`, is true."""
        if self.active.device != counts.device:  # stays there: a copy per forward would make the GPU wait
            self.active, self.tokens = self.active.to(counts.device), self.tokens.to(counts.device)
        self.active += (counts * real).sum((-2, -1))
        self.tokens += real.sum()

    def state(self) -> list[int]:
        """`[tokens, active of layer 0, ...]`, to be summed over processes."""
        return [int(self.tokens), *self.active.tolist()]


def activity(states: Sequence[Sequence[int]], d_ff: Sequence[int]) -> Activity:
    """The activity that tallies of several processes add up to."""
    tokens, *active = (sum(column) for column in zip(*states, strict=True))
    ratios = tuple(n / (tokens * width) for n, width in zip(active, d_ff, strict=True)) if tokens else ()
    return Activity(num_tokens=tokens, layer_activation_ratio=ratios)
