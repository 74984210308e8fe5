"""Result of a benchmark of feed-forward blocks. It is saved as JSON, and all tables and figures are made from it."""

from __future__ import annotations

import dataclasses

from sparsing.bench.common_result import Benchmark, EngineTiming


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockTiming(EngineTiming):
    """The time of one engine for one block, and how many bytes and neurons it read.

    A dense engine is timed once per shape, dtype and batch, since its time does not depend on the activation ratio.
    """

    kind = "block_timing"

    batch: int
    """Tokens decoded at once."""
    speedup: float
    """Median time of the fastest dense engine of the same shape, dtype and batch, over the median of this engine."""
    speedup_low: float
    """First quartile over rounds of the same quotient within a round."""
    speedup_high: float
    """Third quartile of that quotient."""
    active_ratio: float | None = None
    """Measured activation ratio per token; None for a dense engine."""
    read_ratio: float | None = None
    """Share of neurons whose row of `down_proj` was read per call. At batch > 1 a call reads a neuron that is active
    for any of its tokens. None for an engine that does not count its reads."""
    predicted_ratio: float | None = None
    """Share of neurons that the predictor selects per token; None without a predictor."""
    recall: float | None = None
    """Share of the active neurons' summed `neuron_norm` on selected neurons; None without a predictor."""
    bytes_moved: float
    """Bytes of weights, and of the predictor's copy, read per block."""
    bytes_per_sec: float
    """`bytes_moved` over the median time."""
    ceiling_share: float
    """`speedup / byte_ceiling`."""
    output_error: float | None = None
    """Norm of the difference to the plain PyTorch version in float32, over the norm of the PyTorch output. None for
    llama.cpp, which runs a whole model."""

    @property
    def dense(self) -> bool:
        """True if the engine reads all neurons."""
        return self.ratio is None


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockBenchmark(Benchmark):
    """All timings of a run on feed-forward blocks."""

    kind = "block_benchmark"
    former_kind = "FFNBench"

    lines: tuple[BlockTiming, ...]
    """One timing per engine, shape, dtype, batch and activation ratio."""
    cycled_bytes: dict[str, int]
    """`shape dtype` to the bytes of dense weights that all timed layers hold together."""
    flushed_bytes: int
    """Bytes that are read before every sample, so that no weight is in a cache."""
    compile_sec: dict[str, float]
    """`shape dtype batch` to the seconds that `torch.compile` took, which no timing includes."""

    def of(self, shape: str, dtype: str, batch: int) -> list[BlockTiming]:
        """The timings of one group. They were taken in turn, so their times may be compared."""
        return [line for line in self.lines if (line.shape, line.dtype, line.batch) == (shape, dtype, batch)]

    def groups(self) -> list[tuple[str, str, int]]:
        """`(shape, dtype, batch)` of every group, in the order they were timed."""
        return list(dict.fromkeys((line.shape, line.dtype, line.batch) for line in self.lines))
