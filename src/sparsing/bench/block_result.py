"""What a benchmark of one block found, line by line; saved as JSON, from which every table and picture is made."""

from __future__ import annotations

import dataclasses

from sparsing.bench.lines import Bench, BenchLine


@dataclasses.dataclass(frozen=True, kw_only=True)
class FFNLine(BenchLine):
    """One way to compute one block; times are over rounds, and a dense engine's do not depend on the ratio."""

    kind = "ffn_line"

    batch: int
    """Tokens decoded at once."""
    speedup: float
    """Median of the fastest dense engine of the same shape, dtype and batch, over this one's."""
    speedup_low: float
    """First quartile over rounds of the same quotient within a round."""
    speedup_high: float
    """Third quartile."""
    active_ratio: float | None = None
    """Measured activation ratio per token."""
    read_ratio: float | None = None
    """Share of neurons whose row of `down_proj` was read per call: at batch > 1 those active for any of its tokens."""
    predicted_ratio: float | None = None
    """Share of neurons that the predictor names per token."""
    recall: float | None = None
    """Share of the active neurons' summed `neuron_norm` that it names."""
    bytes_moved: float
    """Bytes of weights, and of the predictor's copy, read per block."""
    bytes_per_sec: float
    """The same over the median time."""
    ceiling_share: float
    """`speedup / byte_ceiling`."""
    output_error: float | None = None
    """Norm of the difference to the plain PyTorch version in float32 over the norm of its output."""

    @property
    def dense(self) -> bool:
        return self.ratio is None


@dataclasses.dataclass(frozen=True, kw_only=True)
class FFNBench(Bench):
    """The lines of a run and how it was made."""

    kind = "ffn_bench"

    lines: tuple[FFNLine, ...]
    cycled_bytes: dict[str, int]
    """`shape dtype` to the bytes of dense weights that the layers hold together."""
    flushed_bytes: int
    """Bytes that are read before every sample, so that none of the weights is in cache."""
    compile_sec: dict[str, float]
    """`shape dtype batch` to the seconds torch.compile took; in no line."""

    def of(self, shape: str, dtype: str, batch: int) -> list[FFNLine]:
        """The lines that were timed against each other."""
        return [line for line in self.lines if (line.shape, line.dtype, line.batch) == (shape, dtype, batch)]

    def groups(self) -> list[tuple[str, str, int]]:
        """`(shape, dtype, batch)` of every group, in the order they were timed."""
        return list(dict.fromkeys((line.shape, line.dtype, line.batch) for line in self.lines))
