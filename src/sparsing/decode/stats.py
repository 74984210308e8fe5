"""Statistics of decoding: how many weights were read per step, against the number that dense decoding reads.

The blocks count what they read while they run; this module adds up their counts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparsing.base.results import Result

if TYPE_CHECKING:
    from sparsing.decode.accelerated_block import AcceleratedBlock

_NAN = math.nan


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerRead(Result):
    """The rows that one block has read, as shares of its neurons in [0, 1].

    A row counts once for each call. A call with several tokens reads a row if any of its tokens needs it.
    """

    kind = "layer_bytes_read"

    name: str
    """Dotted path of the block."""
    ways: dict[str, str]
    """Number of rows of the input to the way the block takes (`predicted`, `exact`, `torch`)."""
    activation_ratio: float
    """Share of neurons whose `down` row was read."""
    gate_ratio: float
    """Share of neurons whose `gate` row was read at full precision."""
    up_ratio: float
    """Share of neurons whose `up` row was read."""
    recall: float | None
    """Share of the active neurons' `neuron_norm` on predicted neurons; None without `check_recall`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeStats(Result):
    """Weights read since the last reset, in forwards of at most 8 rows: decoding steps and short prompts."""

    kind = "decode_stats"

    mode: str
    """`sparse`, `dense` or `torch`."""
    steps: int
    """Number of forwards."""
    num_tokens: int
    """Number of rows of all forwards: batch size times steps."""
    activation_ratio: float
    """Mean over the accelerated layers."""
    bytes_per_step: float
    """Bytes of weights read in a step, including the predictor's copy, without the cache of keys and values."""
    dense_bytes_per_step: float
    """Bytes of weights that a step reads if no neuron is skipped."""
    ffn_bytes_per_step: float
    """The part of `bytes_per_step` that the feed-forward blocks read."""
    recall: float | None
    """Recall of the predictor over all layers; None without `check_recall`."""
    layers: tuple[LayerRead, ...]
    """The accelerated blocks, in layer order."""

    @property
    def bytes_ratio(self) -> float:
        """`bytes_per_step` over `dense_bytes_per_step`."""
        return self.bytes_per_step / self.dense_bytes_per_step

    @property
    def byte_speedup(self) -> float:
        """The speed-up if time were proportional to bytes: dense bytes over sparse bytes."""
        return self.dense_bytes_per_step / self.bytes_per_step


def decode_stats(blocks: dict[str, AcceleratedBlock], *, mode: str, other_bytes: float) -> DecodeStats:
    """The statistics of all blocks together; NaN if nothing was decoded.

    Args:
        blocks: Blocks by name, in layer order.
        other_bytes: Bytes of the weights outside the blocks, all of which each step reads.
    """
    reads = [block.reads() for block in blocks.values()]
    steps = max(read.calls for read in reads)
    layers = tuple(_layer(name, block) for name, block in blocks.items())
    ffn_bytes = sum(read.bytes_read for read in reads) / steps if steps else _NAN
    active = sum(read.active_mass for read in reads)
    predicted = sum(read.predicted_mass for read in reads)
    return DecodeStats(
        mode=mode,
        steps=steps,
        num_tokens=max(read.rows for read in reads),
        activation_ratio=_mean([layer.activation_ratio for layer in layers]),
        bytes_per_step=other_bytes + ffn_bytes,
        dense_bytes_per_step=other_bytes + sum(block.weight_bytes for block in blocks.values()),
        ffn_bytes_per_step=ffn_bytes,
        recall=predicted / active if active else None,
        layers=layers,
    )


def _layer(name: str, block: AcceleratedBlock) -> LayerRead:
    reads = block.reads()
    neurons = reads.calls * block.packed.d_ff
    gate, up, down = (rows / neurons if neurons else _NAN for rows in reads.neurons)
    return LayerRead(
        name=name,
        ways={str(rows): way for rows, way in sorted(block.choice.items())} or {"any": block.best},
        activation_ratio=down,
        gate_ratio=gate,
        up_ratio=up,
        recall=reads.recall,
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
