"""`Meter`: the cost of a measurement, in dense forward passes of the same model over the same corpus."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from sparsing.measuring.active_sets import SET_TOKENS
from sparsing.measuring.batch_size import default_batch_size, input_device
from sparsing.measuring.measurement import Cost
from sparsing.measuring.window_loss import WindowLoss
from sparsing.text.corpus import Corpus

if TYPE_CHECKING:
    from sparsing.models.loading import LoadedModel


@dataclasses.dataclass(frozen=True)
class Lap:
    """A stretch of work."""

    sec: float
    tokens: float
    """Tokens that were run through the model."""

    def part(self, count: int) -> Lap:
        """One of `count` equal parts, for work that serves several measurements."""
        return Lap(self.sec / count, self.tokens / count)


class Meter:
    """Counts the tokens that are run and the time, and compares both with a dense pass over the corpus.

    Construction runs three batches of the dense model to time it.
    """

    def __init__(self, loaded: LoadedModel, corpus: Corpus):
        self._num_tokens = corpus.num_tokens
        self.dense_sec = dense_sec(loaded, corpus)
        """Estimated seconds of a dense pass over the corpus."""
        self._shared_sec, self._shared_tokens = 0.0, 0.0
        self.restart()

    def share(self) -> None:
        """Count the passes run so far in the cost of every later measurement, since all of them use these passes."""
        lap = self.lap()
        self._shared_sec += lap.sec
        self._shared_tokens += lap.tokens

    def restart(self) -> None:
        """Begin a lap."""
        self._began, self._tokens = time.monotonic(), 0.0

    def lap(self) -> Lap:
        """What was spent since the last `restart` or `lap`; the next lap begins."""
        lap = Lap(time.monotonic() - self._began, self._tokens)
        self.restart()
        return lap

    def add(self, corpus: Corpus) -> None:
        """Count a pass over this corpus."""
        self._tokens += corpus.num_tokens

    def cost(self, laps: Sequence[Lap] = ()) -> Cost:
        """The cost of a measurement: what is shared, these laps, and the lap that runs."""
        spent = [*laps, Lap(time.monotonic() - self._began, self._tokens)]
        wall = self._shared_sec + sum(lap.sec for lap in spent)
        return Cost(
            forward_passes=(self._shared_tokens + sum(lap.tokens for lap in spent)) / self._num_tokens,
            dense_forward_equivalents=wall / self.dense_sec,
            wall_sec=wall,
        )


PASS_OVERHEAD = 1.2
"""Time of a pass that observes or masks activations, over that of a plain forward (`benchmarks/search_cost.py`)."""


def usual_passes(
    *,
    num_tokens: int,
    searches: int,
    levels: int = 0,
    half_precision: bool = False,
    holdout: float = 0,
    compared: bool = False,
) -> float:
    """Estimate of the passes over a corpus, for plans and for the progress of a run.

    From `search_cost.py` and `rule_grid.py` in `benchmarks/`.

    Args:
        num_tokens: Tokens of the corpus. On a short text the passes over a part of the tokens are passes over all.
        searches: Levels that are searched for a perplexity ratio.
        levels: Levels that are given.
        half_precision: Whether the model computes in half precision, where a search runs more passes.
        holdout: Held-out tokens over the tokens of the corpus.
        compared: Whether rules are compared. Then a search runs each window about once, since its stages follow the
            target. Groups and unions are counted in the same pass, and neither CETT nor held-out tokens are measured.
    """
    measured = searches + levels
    part = max(1 / 8, SET_TOKENS / num_tokens)  # see `stages.part_windows`
    bracket = 2 * (part if part <= 1 / 2 else 1.0) if searches else 0.0
    sets = measured * min(1.0, SET_TOKENS / num_tokens)
    if compared:
        has_part = part <= 1 / 2
        return 1 + searches * (1.1 if has_part else 3.1) + levels + (0.0 if has_part else sets)
    realised_cett = 1.0 if measured else 0.0
    search = 3.0 if half_precision else 2.5
    return 1 + bracket + searches * search + levels + realised_cett + sets + holdout * (1 + measured)


def dense_sec(loaded: LoadedModel, corpus: Corpus) -> float:
    """Seconds of a dense pass with its loss over the corpus, from the faster of two batches after a warm-up."""
    batch = next(corpus.batches(default_batch_size(loaded, corpus), device=input_device(loaded)))
    loss = WindowLoss(loaded.model, tokens=batch.ids.numel())
    times: list[float] = []
    with torch.inference_mode():
        for _ in range(3):
            began = time.monotonic()
            loss(batch).sum().item()  # waits until an accelerator is done
            times.append(time.monotonic() - began)
    # the first batch pays for allocations and kernel selection; a floor avoids a division by zero
    return max(min(times[1:]), 1e-9) * corpus.num_tokens / max(int(batch.counted.sum()), 1)
