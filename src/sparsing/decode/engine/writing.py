"""Writes text with an engine, token by token, and times it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sparsing.base.results import Result
from sparsing.decode.engine.sampling import Sampler, Sampling
from sparsing.errors import InputError

if TYPE_CHECKING:
    from sparsing.decode.engine._engine import GgufEngine


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written:
    """Tokens that an engine has written, with the time of each step."""

    ids: tuple[int, ...]
    """New tokens, without the prompt and without an end token."""
    ttft_sec: float
    """Time to first token: of the prompt."""
    later_sec: tuple[float, ...]
    """Time of each later step, in which one token is decoded and the next one chosen."""

    @property
    def tok_per_sec(self) -> float:
        """One over the median time of the later steps; NaN for a single token."""
        return 1 / float(np.median(self.later_sec)) if self.later_sec else float("nan")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimeShares(Result):
    """Where the time of decoding goes, in shares of the sum of the three parts."""

    kind = "engine_time_shares"

    attention: float
    feed_forward: float
    head: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineStats(Result):
    """What an engine has read since the last reset of its counts."""

    kind = "engine_stats"

    activation_ratio: float
    """Share of neurons that the rule keeps, mean over layers; 1 without a rule."""
    ffn_bytes_ratio: float
    """Bytes read of the feed-forward blocks over the bytes of the blocks in the file."""
    bytes_per_token: float
    """Bytes of weights read for a token, head included."""
    dense_bytes_per_token: float
    """Bytes of weights in the file that a dense token reads."""
    sparse_layers: int
    """Number of layers that skip rows."""
    shares: TimeShares
    """Shares of the time of the first thread."""


def write(
    engine: GgufEngine,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    end_id: int = -1,
) -> Written:
    """Continue a prompt behind the tokens that the engine has read.

    Args:
        end_id: Token at which to stop; -1 for none.

    Raises:
        InputError: If the prompt is empty, `max_new_tokens` is below 1, or the text does not fit into the context.
    """
    room = engine.context - engine.position
    if max_new_tokens < 1 or len(prompt) + max_new_tokens - 1 > room:
        raise InputError(
            f"a prompt of {len(prompt)} tokens and {max_new_tokens} new tokens (at least 1) do not fit into the"
            f" {room} free tokens of the context; give fewer, or open the engine with a larger context"
        )
    choose, ids, stamps = Sampler(sampling or Sampling()), [], [time.perf_counter()]
    logits = engine.read(prompt)
    while (token := choose(logits)) != end_id:
        ids.append(token)
        stamps.append(time.perf_counter())
        if len(ids) == max_new_tokens:
            break
        logits = engine.read([token])
    first, *later = np.diff(stamps) if len(stamps) > 1 else (time.perf_counter() - stamps[0],)
    return Written(ids=tuple(ids), ttft_sec=float(first), later_sec=tuple(map(float, later)))


def engine_stats(engine: GgufEngine, tokens: int) -> EngineStats:
    """The counts of an engine that has decoded `tokens` tokens since `reset_counts`, at least one."""
    sizes = engine.weights.matrix_bytes
    rows = engine.array("rows_read").sum(0) / tokens  # (layers, 3)
    dense = float(sizes.sum()) + engine.weights.head_bytes
    ffn_dense = sizes[:, 4:].astype(float)
    read = rows / engine.arch.d_ff * ffn_dense
    for layer, copy in enumerate(engine.rule.copies):
        # a dense layer reads all of down, whatever is active
        read[layer, 2] = ffn_dense[layer, 2] if copy is None else rows[layer, 2] * copy.down_row_bytes
    other = dense - float(ffn_dense.sum())
    cycles, head = engine.array("cycles").sum(0), float(engine.array("head_cycles")[0])
    total = float(cycles.sum()) + head or 1.0
    return EngineStats(
        activation_ratio=float(rows[:, 2].mean() / engine.arch.d_ff),
        ffn_bytes_ratio=float(read.sum() / ffn_dense.sum()),
        bytes_per_token=float(other + read.sum()),
        dense_bytes_per_token=dense,
        sparse_layers=sum(copy is not None for copy in engine.rule.copies),
        shares=TimeShares(
            attention=float(cycles[0]) / total, feed_forward=float(cycles[1]) / total, head=head / total
        ),
    )
