"""What a benchmark of whole models found: tokens a second in `generate()`, engine by engine."""

from __future__ import annotations

import dataclasses

from sparsing.decode.bandwidth import Bandwidth
from sparsing.provenance import Provenance
from sparsing.results import Result


@dataclasses.dataclass(frozen=True, kw_only=True)
class WholeLine(Result):
    """One engine on one model; decoding at batch 1, the prompt's pass left out."""

    shape: str
    dtype: str
    name: str
    """`Hugging Face`, `own dense`, `llama.cpp F32`, `sparse, exact`, `4-bit predictor`."""
    ratio: float | None
    """Wanted activation ratio; None for a dense engine, and for a model whose ratio is its own."""
    dense: bool
    tok_per_sec: float
    """One over the median seconds of a token."""
    ms: float
    """Milliseconds per token, median over all tokens of all rounds."""
    ms_low: float
    """First quartile."""
    ms_high: float
    """Third quartile."""
    active_ratio: float | None = None
    """Share of neurons whose row of `down_proj` was read, mean over layers and decoded tokens."""
    recall: float | None = None
    """Share of the active neurons' summed `neuron_norm` that the predictor names, on tokens it was not made on."""
    bytes_per_token: float
    """Weights read per token, head and predictor included; the cache of keys and values is left out."""
    bandwidth_share: float
    """Bytes a second of the measured bandwidth."""
    byte_ceiling: float
    """Bytes of the own dense path over these."""
    speedups: dict[str, float]
    """Dense engine to its median time over this one's."""

    @property
    def ceiling_share(self) -> float:
        """Speed-up against the own dense path over the byte ceiling."""
        return self.speedups["own dense"] / self.byte_ceiling


@dataclasses.dataclass(frozen=True, kw_only=True)
class WholeBench(Result):
    """The lines of a run and how it was made."""

    lines: tuple[WholeLine, ...]
    bandwidth: Bandwidth
    threads: int
    rounds: int
    prompt_tokens: int
    new_tokens: int
    """Timed tokens per round and engine, at contexts from `prompt_tokens` on."""
    left_out: tuple[str, ...]
    """What could not be timed here, and why."""
    weights: str
    """Where the weights are from."""
    processor: str
    provenance: Provenance

    def groups(self) -> dict[str, list[WholeLine]]:
        """Title to the lines that were timed against each other, in their order."""
        found: dict[str, list[WholeLine]] = {}
        for line in self.lines:
            found.setdefault(f"{line.shape}, {line.dtype}", []).append(line)
        return found
