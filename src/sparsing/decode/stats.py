"""What decoding has read, per token and against dense, as counted by the blocks while they ran."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparsing.base.results import Result

if TYPE_CHECKING:
    from sparsing.decode.accelerated_block import FastBlock

_NAN = math.nan


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerRead(Result):
    """One block. Shares are of its neurons, in [0, 1]; those of a call with several tokens belong to any of them."""

    kind = "layer_bytes_read"

    name: str
    """Dotted path of the block."""
    ways: dict[str, str]
    """Rows at once -> way (`predicted`, `exact`, `torch`)."""
    activation_ratio: float
    """Share of neurons whose `down` row was needed."""
    gate_ratio: float
    """Share whose `gate` row was read at full precision."""
    up_ratio: float
    """Share whose `up` row was read."""
    recall: float | None
    """Share of the active neurons' `neuron_norm` on predicted ones; None where not asked for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeStats(Result):
    """Reading of weights since the last reset, in forwards of few rows (decoding; a short prompt is one too)."""

    kind = "decode_stats"

    mode: str
    """`sparse` or `dense`."""
    steps: int
    """Forwards."""
    num_tokens: int
    """Rows in them: batch times steps."""
    activation_ratio: float
    """Mean over accelerated layers."""
    bytes_per_step: float
    """Weights read in a step, the predictor's copy included; the cache of keys and values is left out."""
    dense_bytes_per_step: float
    """The same with no neuron skipped."""
    ffn_bytes_per_step: float
    """The part of `bytes_per_step` that the feed-forward blocks read."""
    recall: float | None
    """Over all layers; None where not asked for."""
    layers: tuple[LayerRead, ...]
    """Accelerated blocks, in layer order."""

    @property
    def bytes_ratio(self) -> float:
        """`bytes_per_step` over dense."""
        return self.bytes_per_step / self.dense_bytes_per_step

    @property
    def byte_speedup(self) -> float:
        """What the bytes that were skipped allow: dense bytes over sparse bytes."""
        return self.dense_bytes_per_step / self.bytes_per_step


def decode_stats(blocks: dict[str, FastBlock], *, mode: str, other_bytes: float) -> DecodeStats:
    """Add up blocks by name; `other_bytes` are read in each step beside them. NaN where nothing was decoded."""
    reads = {name: block.read() for name, block in blocks.items()}
    steps = max(read.calls for read in reads.values())
    layers = tuple(_layer(name, block) for name, block in blocks.items())
    ffn = sum(read.bytes_read for read in reads.values()) / steps if steps else _NAN
    dense = sum(block.weight_bytes for block in blocks.values())
    masses = [(read.active_mass, read.predicted_mass) for read in reads.values() if read.active_mass]
    active, predicted = (sum(part) for part in zip(*masses, strict=True)) if masses else (0.0, 0.0)
    return DecodeStats(
        mode=mode,
        steps=steps,
        num_tokens=max(read.rows for read in reads.values()),
        activation_ratio=_mean([layer.activation_ratio for layer in layers]),
        bytes_per_step=other_bytes + ffn,
        dense_bytes_per_step=other_bytes + dense,
        ffn_bytes_per_step=ffn,
        recall=predicted / active if active else None,
        layers=layers,
    )


def _layer(name: str, block: FastBlock) -> LayerRead:
    read = block.read()
    asked = read.calls * block.packed.d_ff
    gate, up, down = (count / asked if asked else _NAN for count in read.neurons)
    return LayerRead(
        name=name,
        ways={str(rows): way for rows, way in sorted(block.choice.items())} or {"any": block.best},
        activation_ratio=down,
        gate_ratio=gate,
        up_ratio=up,
        recall=read.recall,
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
