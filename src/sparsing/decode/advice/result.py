"""Result of `advise`: one row per rule, perplexity target and way to find the active neurons, and a sentence."""

from __future__ import annotations

import dataclasses
import math

from sparsing.base.provenance import Provenance
from sparsing.base.results import Result
from sparsing.decode.advice.bounds import Bound
from sparsing.decode.advice.roofline import Roofline
from sparsing.measuring.weight_bytes import WeightBytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdviceRow(Result):
    """One rule at one perplexity target, with one way to find the active neurons."""

    kind = "advice_row"

    rule: str
    """Name of the rule."""
    level: float
    """Level of the rule that meets the target."""
    target_ppl_ratio: float
    """Requested perplexity ratio, e.g. 1.01."""
    ppl_ratio: float
    """Perplexity ratio measured on the corpus with all active neurons computed."""
    activation_ratio: float
    """Measured on the corpus, in [0, 1]."""
    way: str = "none"
    """How the active neurons are found: `exact`, `4-bit` or `8-bit` (predicted). `none` if the rule has no kernel."""
    measured: bool = False
    """False if the speeds are predicted from bytes."""
    dense_bytes: float
    """Bytes of weights that a dense step reads at batch 1."""
    step_bytes: float
    """Bytes of weights, and of the predictor's copy, that a sparse step reads. Counted if `measured`."""
    ceiling: float
    """Dense bytes over sparse bytes if finding the active neurons were free. Reading less cannot give more."""
    tok_per_sec: float = math.nan
    """Tokens per second of sparse decoding, batch 1."""
    dense_tok_per_sec: float = math.nan
    """Tokens per second of dense decoding by the same kernels, timed in turn with the sparse runs."""
    speedup_quartiles: tuple[float, float, float] | None = None
    """Lower quartile, median and upper quartile of the speed-up over pairs of runs; None if not measured."""
    predictor_ppl_change: float | None = None
    """Perplexity with the predictor over perplexity without, minus 1, on the corpus; None without a predictor."""
    predictor_recall: float | None = None
    """Share of the active neurons' `neuron_norm` that is predicted, on held-out tokens; None without a predictor."""
    torch_layers: int = 0
    """Layers that torch computes because it was faster than the kernel."""
    advice: str = ""
    """One sentence: use this row, or skip it and why."""

    @property
    def speedup(self) -> float:
        """Sparse over dense tokens per second: the median over pairs if measured, otherwise the prediction."""
        if self.speedup_quartiles is not None:
            return self.speedup_quartiles[1]
        return self.tok_per_sec / self.dense_tok_per_sec

    @property
    def byte_speedup(self) -> float:
        """Dense bytes over the bytes that a step reads: the speed-up that the bytes of this row allow."""
        return self.dense_bytes / self.step_bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Advice(Result):
    """All rows in the order they were requested, and the machine and model they were measured on."""

    kind = "advice"

    rows: tuple[AdviceRow, ...]
    """One per rule, perplexity target and way, without those that the bounds exclude."""
    bounds: tuple[Bound, ...] = ()
    """One per rule with kernels and perplexity target."""
    weights: WeightBytes
    """Bytes of the model's weights."""
    roofline: Roofline
    """Memory bandwidth and dense speed."""
    torch_tok_per_sec: float
    """Tokens per second of the model's own code, dense, batch 1."""
    threads: int
    """CPU threads of torch and of the kernels."""
    new_tokens: int
    """Tokens of a timed run."""
    sentence: str
    """The recommendation."""
    provenance: Provenance
    """Model, corpus, versions and command line."""

    @property
    def ffn_share(self) -> float:
        """Share of a dense step's bytes that belongs to feed-forward neurons."""
        return self.weights.ffn_bytes / self.weights.total_bytes
