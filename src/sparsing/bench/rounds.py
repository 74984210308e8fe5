"""Timing of contestants in turns: all of them once per round, on cold weights, so that noise meets all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from sparsing.bench.engines import Contestant

_REST_SEC = 0.003
"""Thread pools of other engines spin for some milliseconds after their work; a sample waits until they sleep."""


class Flush:
    """Reads a buffer of its own, so that what was in the caches before is not."""

    def __init__(self, size: int):
        self._buffer = np.ones(size // 4, dtype=np.float32)

    def __call__(self) -> None:
        self._buffer.max()
        time.sleep(_REST_SEC)


def timed_rounds(
    contestants: Sequence[Contestant],
    pools: Mapping[float | None, torch.Tensor],
    *,
    batch: int,
    rounds: int,
    flush: Callable[[], None],
) -> np.ndarray:
    """Milliseconds per block, shape `(len(contestants), rounds)`, after one round that is not counted.

    Every other round goes backwards. A sample is one call per layer, each on tokens of its own.

    Args:
        pools: Wanted ratio to inputs, shape `(tokens, d_model)`, in the dtype that contestants take; None for the
            dense.
    """
    times = np.zeros((len(contestants), rounds + 1))
    order = list(range(len(contestants)))
    for turn in range(rounds + 1):
        if turn == 1:
            for block in (block for contestant in contestants for block in contestant.blocks):
                block.reset_counts()
        for i in order:
            pool = pools[contestants[i].ratio]
            times[i, turn] = _sample(contestants[i], _tokens(pool, contestants[i], batch, turn), flush)
        order.reverse()
    return times[:, 1:]


def _sample(contestant: Contestant, tokens: list[torch.Tensor], flush: Callable[[], None]) -> float:
    first, *rest = contestant.calls
    flush()
    first(tokens[0])
    began = time.perf_counter()
    for call, x in zip(rest, tokens[1:], strict=True):
        call(x)
    return 1e3 * (time.perf_counter() - began) / (len(rest) * contestant.ffns_per_call)


def _tokens(pool: torch.Tensor, contestant: Contestant, batch: int, turn: int) -> list[torch.Tensor]:
    """Rows of the pool for each call, going on where the round before ended."""
    count = len(contestant.calls)
    rows = torch.arange(turn * count * batch, (turn + 1) * count * batch) % len(pool)
    return [pool[part] for part in rows.view(count, batch)]
