"""What benchmarks of blocks and of whole models have in common: a timed line, and how a run was made."""

from __future__ import annotations

import dataclasses

from sparsing.base.provenance import Provenance
from sparsing.base.results import Result
from sparsing.hardware.bandwidth import Bandwidth


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchLine(Result):
    """One engine on one shape, in a dtype and at a ratio; times are of a block, or of a model's token."""

    kind = "bench_line"

    shape: str
    dtype: str
    name: str
    """Of the engine, e.g. `own dense`, `llama.cpp F32`, `sparse, exact`, `4-bit predictor`."""
    ratio: float | None
    """Wanted activation ratio; None for a dense engine, and for a model whose ratio is its own."""
    ms: float
    """Milliseconds, median."""
    ms_low: float
    """First quartile."""
    ms_high: float
    """Third quartile."""
    bandwidth_share: float
    """Bytes a second of the measured bandwidth."""
    byte_ceiling: float
    """Bytes that the dense block or the own dense path reads over those read here: the speed-up they can buy."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench(Result):
    """How a run was made."""

    kind = "bench"

    bandwidth: Bandwidth
    threads: int
    rounds: int
    left_out: tuple[str, ...]
    """What could not be timed here, and why."""
    weights: str
    """Where the weights are from."""
    processor: str
    provenance: Provenance
