"""How fast a model can decode at batch 1 on this machine: bytes of weights per token against memory bandwidth.

A step takes the time to read its weights and a rest that does not depend on them (launching, attention over the cache,
choosing the token). The rest is what a timed dense run took beyond reading.
"""

from __future__ import annotations

import dataclasses

from sparsing.base.results import Result
from sparsing.hardware.bandwidth import Bandwidth


@dataclasses.dataclass(frozen=True, kw_only=True)
class Roofline(Result):
    """Tokens per second from bytes per token."""

    kind = "roofline"

    bandwidth: Bandwidth
    """Measured on this machine."""
    dense_bytes: float
    """Weights that a dense step reads."""
    dense_tok_per_sec: float
    """Of a dense run that was timed on this machine, batch 1."""

    @property
    def rest_sec(self) -> float:
        """Seconds of a dense step beyond reading its weights, at least 0: weights in the cache come faster."""
        return max(0.0, 1 / self.dense_tok_per_sec - self.dense_bytes / self.bandwidth.peak_bytes_per_sec)

    def most_tok_per_sec(self, step_bytes: float) -> float:
        """The ceiling: nothing but reading."""
        return self.bandwidth.peak_bytes_per_sec / step_bytes

    def tok_per_sec(self, step_bytes: float) -> float:
        """What a step that reads so many bytes can be expected to reach: reading, and the rest of the dense run."""
        scale = min(1.0, step_bytes / self.dense_bytes)
        reading = 1 / self.dense_tok_per_sec - self.rest_sec  # in the dense run, from memory or the cache
        return 1 / (self.rest_sec + reading * scale)
