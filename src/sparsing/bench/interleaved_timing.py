"""Times several engines in turn, so that a change in the machine's speed affects all of them alike.

A round times every engine once, on weights that are in no cache. `time_engines` is the entry point.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from sparsing.bench.engines import Engine

_REST_SEC = 0.003
"""Pause before a sample. Idle threads of other engines spin for some milliseconds before they sleep."""


class CacheFlush:
    """Evicts weights from the caches by reading a buffer of `size` bytes, then waits for other threads to sleep."""

    def __init__(self, size: int):
        self._buffer = np.ones(size // 4, dtype=np.float32)

    def __call__(self) -> None:
        self._buffer.max()
        time.sleep(_REST_SEC)


def time_engines(
    engines: Sequence[Engine],
    inputs: Mapping[float | None, torch.Tensor],
    *,
    batch: int,
    rounds: int,
    flush: Callable[[], None],
) -> np.ndarray:
    """Time every engine once per round; a sample is one call per layer, each on different tokens.

    Args:
        inputs: Requested activation ratio to inputs, shape `(tokens, d_model)`, in the dtype that the engines take.
            Dense engines use the inputs of the key None.
        batch: Tokens per call.
        rounds: Rounds that count. One more round runs before them as a warm-up.
        flush: Called before every sample to empty the caches.

    Returns:
        Milliseconds per block, shape `(len(engines), rounds)`.
    """
    times = np.zeros((len(engines), rounds + 1))
    order = list(range(len(engines)))
    for turn in range(rounds + 1):
        if turn == 1:  # bytes are counted over the timed rounds only
            for block in (block for engine in engines for block in engine.blocks):
                block.reset_counts()
        for i in order:
            tokens = _tokens(inputs[engines[i].ratio], engines[i], batch, turn)
            times[i, turn] = _sample(engines[i], tokens, flush)
        # every other round runs backwards, or the same engine would always follow the slowest one
        order.reverse()
    return times[:, 1:]


def _sample(engine: Engine, tokens: list[torch.Tensor], flush: Callable[[], None]) -> float:
    """Milliseconds per block of one pass over all layers but the first, whose call only wakes the threads."""
    first, *rest = engine.calls
    flush()
    first(tokens[0])
    began = time.perf_counter()
    for call, x in zip(rest, tokens[1:], strict=True):
        call(x)
    return 1e3 * (time.perf_counter() - began) / (len(rest) * engine.blocks_per_call)


def _tokens(inputs: torch.Tensor, engine: Engine, batch: int, turn: int) -> list[torch.Tensor]:
    """Rows of the inputs for each call, each of shape `(batch, d_model)`.

    A round continues where the previous round ended, and starts again at the first row after the last one.
    """
    count = len(engine.calls)
    rows = torch.arange(turn * count * batch, (turn + 1) * count * batch) % len(inputs)
    return [inputs[part] for part in rows.view(count, batch)]
