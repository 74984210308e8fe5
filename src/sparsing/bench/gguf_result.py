"""Result of a benchmark of a GGUF file: llama.cpp and the package's own engine, dense and sparse, on the same file."""

from __future__ import annotations

import dataclasses

from sparsing.base.provenance import Provenance
from sparsing.base.results import Result
from sparsing.decode.advice.wording import MAX_OVER_BYTES
from sparsing.decode.engine.writing import EngineStats
from sparsing.hardware.bandwidth import Bandwidth

LLAMA_CPP, OWN_DENSE, OWN_SPARSE = "llama.cpp", "own dense", "own sparse"
WORTHWHILE = 1.05
"""A smaller speed-up is not advised, as in `decode/advice`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GgufTiming(Result):
    """The time per token of one engine, over all tokens of all rounds."""

    kind = "gguf_timing"

    name: str
    """`llama.cpp`, `own dense` or `own sparse`."""
    tok_per_sec: float
    """One over the median seconds per token."""
    ms: float
    """Median milliseconds per token."""
    ms_low: float
    """First quartile."""
    ms_high: float
    """Third quartile."""
    bytes_per_token: float
    """Bytes of weights read for a token; those of the file for dense engines."""
    bandwidth_share: float
    """Bytes read per second over the peak bandwidth of this machine."""
    speedup: float
    """Median time of llama.cpp over that of this engine; of own dense if llama.cpp was not timed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GgufBenchmark(Result):
    """All timings of one file."""

    kind = "gguf_benchmark"

    file: str
    """Name of the file."""
    weight_types: dict[str, int]
    """ggml type to its number of tensors."""
    threads: int
    rounds: int
    context: int
    """Tokens that a round decodes behind its first one."""
    lines: tuple[GgufTiming, ...]
    dense: EngineStats
    """Own dense, on the timed tokens."""
    sparse: EngineStats
    """Own sparse, on the timed tokens."""
    way_ratios: tuple[float, ...]
    """Sparse time over dense time of the block of each layer, on which the choice of its way rests."""
    copy_bytes: int
    """Bytes of memory of the copies of `down` (and `up`) that sparse layers read."""
    copy_error: float
    """Largest root mean square error of a copy of `down`, relative to its weights."""
    left_out: tuple[str, ...]
    """Engines that could not be timed, each with the reason."""
    bandwidth: Bandwidth
    processor: str
    provenance: Provenance

    def line(self, name: str) -> GgufTiming | None:
        """The timing of this engine; None if it was not timed."""
        return next((line for line in self.lines if line.name == name), None)

    @property
    def gain(self) -> float:
        """Time of own dense over that of own sparse."""
        dense, sparse = self.line(OWN_DENSE), self.line(OWN_SPARSE)
        assert dense is not None, "always timed"
        assert sparse is not None, "always timed"
        return dense.ms / sparse.ms

    @property
    def byte_gain(self) -> float:
        """Bytes per token of the dense file over those of own sparse: the speed-up that the bytes allow."""
        return self.sparse.dense_bytes_per_token / self.sparse.bytes_per_token

    @property
    def advice(self) -> str:
        """Whether skipping neurons pays, and compared with what."""
        active, llama, sparse = self.sparse.activation_ratio, self.line(LLAMA_CPP), self.line(OWN_SPARSE)
        if self.sparse.sparse_layers == 0:
            return f"advice: decode dense; with {active:.0%} of the neurons active no layer is faster by skipping"
        if self.gain < WORTHWHILE:
            return (
                f"advice: decode dense; with {active:.0%} of the neurons active, skipping the others saves less"
                f" than {WORTHWHILE - 1:.0%} of the time"
            )
        if self.gain > MAX_OVER_BYTES * self.byte_gain:
            return (
                f"advice: measure again with nothing else running; {self.gain:.2f}x was measured, but the bytes allow"
                f" {self.byte_gain:.2f}x"
            )
        if llama is not None and sparse is not None and sparse.speedup < 1:
            return f"advice: use llama.cpp; skipping pays {self.gain:.2f}x, but llama.cpp is faster still"
        return f"advice: use it; skipping pays {self.gain:.2f}x with {active:.0%} of the neurons active"

    @property
    def sentence(self) -> str:
        """What share of the time sparsity can touch, and what it gave."""
        share = self.dense.shares.feed_forward
        layers, active = len(self.way_ratios), f"{self.sparse.activation_ratio:.1%} of the neurons active"
        found = f"none of {layers} layers skips neurons, with {active}"
        if self.sparse.sparse_layers:
            skipping = f"{self.sparse.sparse_layers} of {layers} layers skip neurons"
            found = f"it brings {self.gain:.2f}x with {active}; {skipping}"
        return (
            f"feed-forward blocks take {share:.0%} of the time of dense decoding, so skipping neurons can bring at most"
            f" {1 / max(1 - share, 1e-3):.2f}x; {found}"
        )
