"""What `advise` says: one row for each rule, cost and way, and a sentence."""

from __future__ import annotations

import dataclasses
import math

from sparsing.base.provenance import Provenance
from sparsing.base.results import Result
from sparsing.decode.advice.roofline import Roofline
from sparsing.measuring.weight_bytes import WeightBytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdviceRow(Result):
    """A rule at a cost in perplexity, with one way to find the active set."""

    kind = "advice_row"

    rule: str
    level: float
    target_ppl_ratio: float
    """The cost asked for."""
    ppl_ratio: float
    """Measured on the corpus, all active neurons computed."""
    activation_ratio: float
    """Measured on the corpus."""
    way: str = "none"
    """`exact`, `4-bit` or `8-bit` (predicted), `none` where no kernel serves the rule."""
    measured: bool = False
    """False where speeds are what the bytes promise."""
    dense_bytes: float
    """Weights that a dense step reads at batch 1."""
    step_bytes: float
    """Weights, and the predictor's copy, that a sparse step reads; counted where measured."""
    ceiling: float
    """Dense bytes over bytes, were the active set known at no cost: no way can be faster by reading less."""
    tok_per_sec: float = math.nan
    """Sparse, batch 1."""
    dense_tok_per_sec: float = math.nan
    """Dense by the same kernels, in turn with the sparse runs."""
    speedup_quartiles: tuple[float, float, float] | None = None
    """Lower quartile, median and upper quartile of sparse over dense, pair by pair; None where not measured."""
    predictor_ppl_change: float | None = None
    """Perplexity with the predictor over without, minus 1, on the corpus; None without one."""
    predictor_recall: float | None = None
    """Share of the active neurons' `neuron_norm` that is predicted, on held-out tokens."""
    torch_layers: int = 0
    """Layers where torch was faster than the kernel and took over."""
    advice: str = ""
    """One sentence."""

    @property
    def speedup(self) -> float:
        """Sparse over dense tokens per second, the median over pairs where measured."""
        if self.speedup_quartiles is not None:
            return self.speedup_quartiles[1]
        return self.tok_per_sec / self.dense_tok_per_sec

    @property
    def byte_speedup(self) -> float:
        """Dense bytes over bytes that were read: what this way's reading allows."""
        return self.dense_bytes / self.step_bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Advice(Result):
    """Rows in the order they were asked for, and what they were measured on."""

    kind = "advice"

    rows: tuple[AdviceRow, ...]
    weights: WeightBytes
    roofline: Roofline
    torch_tok_per_sec: float
    """The model's own code, dense, batch 1."""
    threads: int
    """Of torch and the kernels, on a CPU."""
    new_tokens: int
    """Length of a timed run."""
    sentence: str
    """What to do."""
    provenance: Provenance

    @property
    def ffn_share(self) -> float:
        """Feed-forward neurons' part of the bytes of a dense step."""
        return self.weights.ffn_bytes / self.weights.total_bytes
