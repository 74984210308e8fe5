"""What a benchmark of whole models found: tokens a second in `generate()`, engine by engine."""

from __future__ import annotations

import dataclasses

from sparsing.bench.lines import Bench, BenchLine


@dataclasses.dataclass(frozen=True, kw_only=True)
class WholeLine(BenchLine):
    """One engine on one model; times are of all tokens of all rounds at batch 1, the prompt's pass left out."""

    kind = "whole_line"

    dense: bool
    tok_per_sec: float
    """One over the median seconds of a token."""
    active_ratio: float | None = None
    """Share of neurons whose row of `down_proj` was read, mean over layers and decoded tokens."""
    recall: float | None = None
    """Share of the active neurons' summed `neuron_norm` that the predictor names, on tokens it was not made on."""
    bytes_per_token: float
    """Weights read per token, head and predictor included; the cache of keys and values is left out."""
    speedups: dict[str, float]
    """Dense engine to its median time over this one's."""

    @property
    def ceiling_share(self) -> float:
        """Speed-up against the own dense path over the byte ceiling."""
        return self.speedups["own dense"] / self.byte_ceiling


@dataclasses.dataclass(frozen=True, kw_only=True)
class WholeBench(Bench):
    """The lines of a run and how it was made."""

    kind = "whole_bench"

    lines: tuple[WholeLine, ...]
    prompt_tokens: int
    new_tokens: int
    """Timed tokens per round and engine, at contexts from `prompt_tokens` on."""

    def groups(self) -> dict[str, list[WholeLine]]:
        """Title to the lines that were timed against each other, in their order."""
        found: dict[str, list[WholeLine]] = {}
        for line in self.lines:
            found.setdefault(f"{line.shape}, {line.dtype}", []).append(line)
        return found
