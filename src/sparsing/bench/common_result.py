"""Base classes of the benchmark results: what a timing of a block and a timing of a whole model have in common."""

from __future__ import annotations

import dataclasses

from sparsing.base.provenance import Provenance
from sparsing.base.results import Result
from sparsing.hardware.bandwidth import Bandwidth


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineTiming(Result):
    """The time of one engine on one shape, in one dtype and at one activation ratio."""

    kind = "engine_timing"

    shape: str
    """Name of the shape, e.g. `0.8B`."""
    dtype: str
    """Dtype of the weights: `float32`, `bfloat16` or `int8`."""
    name: str
    """Name of the engine, e.g. `own dense`, `llama.cpp F32`, `sparse, exact`, `4-bit predictor`."""
    ratio: float | None
    """Requested activation ratio; None if no ratio was requested: for dense engines and for checkpoints."""
    ms: float
    """Median milliseconds per block or per token of a model."""
    ms_low: float
    """First quartile."""
    ms_high: float
    """Third quartile."""
    bandwidth_share: float
    """Bytes read per second over the peak bandwidth of this machine."""
    byte_ceiling: float
    """Bytes read by our dense kernels over bytes read by this engine: the speed-up that fewer bytes allow."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark(Result):
    """The machine and the settings of a benchmark run."""

    kind = "benchmark"

    bandwidth: Bandwidth
    """Measured before the first timing."""
    threads: int
    """CPU threads of every engine."""
    rounds: int
    """Counted rounds; a round times every engine once."""
    left_out: tuple[str, ...]
    """Engines that could not be timed on this machine, each with the reason."""
    weights: str
    """Origin of the weights."""
    processor: str
    """Name of the processor."""
    provenance: Provenance
    """Model, versions and command line."""
