"""Result of a benchmark of whole models: the time of a decoded token in `generate()`, engine by engine."""

from __future__ import annotations

import dataclasses

from sparsing.bench.common_result import Benchmark, EngineTiming


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelTiming(EngineTiming):
    """The time per token of one engine on one model at batch 1, over all tokens of all rounds, without the prefill."""

    kind = "model_timing"

    dense: bool
    """True if the engine reads all neurons."""
    tok_per_sec: float
    """One over the median seconds per token."""
    active_ratio: float | None = None
    """Share of neurons whose row of `down_proj` was read, mean over layers and decoded tokens; None if dense."""
    recall: float | None = None
    """Share of the active neurons' summed `neuron_norm` on the neurons that the predictor selects. It is measured on
    tokens that were not used to calibrate the predictor. None without a predictor."""
    bytes_per_token: float
    """Bytes of weights read per token, head and predictor included; the key-value cache is not included."""
    speedups: dict[str, float]
    """Name of a dense engine to its median time over the median time of this engine."""

    @property
    def ceiling_share(self) -> float:
        """Speed-up over our dense kernels, divided by `byte_ceiling`."""
        return self.speedups["own dense"] / self.byte_ceiling


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelBenchmark(Benchmark):
    """All timings of a run on whole models."""

    kind = "model_benchmark"
    former_kind = "WholeBench"

    lines: tuple[ModelTiming, ...]
    """One timing per engine, shape, dtype and activation ratio."""
    prompt_tokens: int
    """Tokens of the prompt, whose prefill is not timed."""
    new_tokens: int
    """Timed tokens per round and engine. The first of them is decoded at a context of `prompt_tokens`."""

    def groups(self) -> dict[str, list[ModelTiming]]:
        """`shape, dtype` to its timings, in the order they were taken."""
        groups: dict[str, list[ModelTiming]] = {}
        for line in self.lines:
            groups.setdefault(f"{line.shape}, {line.dtype}", []).append(line)
        return groups
