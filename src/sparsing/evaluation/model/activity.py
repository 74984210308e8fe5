"""How active a model was while a task ran: separately for the tokens of prompts and for generated tokens.

Prefill is every forward over a prompt or a scored text. Decode is every forward whose input is one token per
sequence with a cache behind it. Two kinds of tokens never count: padding, and tokens that a batch goes on to generate
for a sequence after its stop string. `Tally` adds up during the run; `Activity` is the result that is saved.
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
    """Activation ratio of one phase."""

    kind = "task_activity"

    num_tokens: int
    """Counted tokens."""
    layer_activation_ratio: tuple[float, ...]
    """Mean over tokens, one number per layer; empty if no token counts."""

    @classmethod
    def of(cls, states: Sequence[Sequence[int]], d_ff: Sequence[int]) -> Activity:
        """The sum of the tallies of several processes.

        Args:
            states: `Tally.state()` of each process.
            d_ff: Neurons of each layer.
        """
        tokens, *active = (sum(column) for column in zip(*states, strict=True))
        ratios = tuple(n / (tokens * width) for n, width in zip(active, d_ff, strict=True)) if tokens else ()
        return cls(num_tokens=tokens, layer_activation_ratio=ratios)

    @property
    def activation_ratio(self) -> float:
        """Mean over tokens, then over layers; NaN if no token counts."""
        ratios = self.layer_activation_ratio
        return sum(ratios) / len(ratios) if ratios else float("nan")


class Tally:
    """Running sums of one phase: tokens, and active neurons per layer, shape `(n_layers,)`, int64."""

    def __init__(self, n_layers: int):
        import torch

        self.tokens = torch.zeros((), dtype=torch.int64)
        self.active = torch.zeros(n_layers, dtype=torch.int64)

    def add(self, counts: torch.Tensor, real: torch.Tensor) -> None:
        """Add the active neurons of some tokens.

        Args:
            counts: Active neurons of each token, shape `(n_layers, sequences, tokens)`, int64.
            real: Which tokens count, shape `(sequences, tokens)`, bool.
        """
        # The sums move to the device of the model once and stay there: a copy to the host in every forward would
        # make the GPU wait.
        if self.active.device != counts.device:
            self.active, self.tokens = self.active.to(counts.device), self.tokens.to(counts.device)
        self.active += (counts * real).sum((-2, -1))
        self.tokens += real.sum()

    def state(self) -> list[int]:
        """`[tokens, active neurons of layer 0, ...]`, which may be added up over processes."""
        return [int(self.tokens), *self.active.tolist()]
