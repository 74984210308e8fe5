"""Predicts decoding speed at batch 1 from the bytes of weights per token and the memory bandwidth.

A decoding step takes the time to read its weights plus a constant overhead (launching kernels, attention over the
cache, choosing the token). The overhead is the part of a timed dense step that reading does not explain.
"""

from __future__ import annotations

import dataclasses

from sparsing.base.results import Result
from sparsing.hardware.bandwidth import Bandwidth


@dataclasses.dataclass(frozen=True, kw_only=True)
class Roofline(Result):
    """Converts bytes per decoding step to tokens per second."""

    kind = "roofline"

    bandwidth: Bandwidth
    """Measured on this machine."""
    dense_bytes: float
    """Bytes of weights that a dense step reads."""
    dense_tok_per_sec: float
    """Speed of a dense run that was timed on this machine, batch 1."""

    @property
    def rest_sec(self) -> float:
        """Seconds of a dense step that reading its weights does not explain.

        At least 0: weights in the cache are read faster than from memory, which would give a negative value.
        """
        return max(0.0, 1 / self.dense_tok_per_sec - self.dense_bytes / self.bandwidth.peak_bytes_per_sec)

    def tok_per_sec(self, step_bytes: float) -> float:
        """Expected tokens per second of a step that reads `step_bytes` and has the overhead of the dense run."""
        # a predictor can make a step read more than dense; the model then predicts no slowdown
        scale = min(1.0, step_bytes / self.dense_bytes)
        reading = 1 / self.dense_tok_per_sec - self.rest_sec  # seconds, whether from memory or from the cache
        return 1 / (self.rest_sec + reading * scale)
