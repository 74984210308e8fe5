"""Times a GGUF file: llama.cpp, the package's own engine dense, and the same engine sparse, token by token in turn.

All engines decode the same ids. A round lets each engine decode the whole text once, and a following round starts with
another engine, so that a disturbance of the machine hits all of them alike.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sparsing.base.progress import Progress
from sparsing.base.provenance import made_now
from sparsing.bench.gguf_result import LLAMA_CPP, OWN_DENSE, OWN_SPARSE, GgufBenchmark, GgufTiming
from sparsing.bench.llama_cpp import LlamaCpp
from sparsing.decode.engine._engine import GgufEngine, open_engine
from sparsing.decode.engine.choose import choose_ways, random_ids
from sparsing.decode.engine.rule import EngineRule, dense_rule, sparse_rule
from sparsing.decode.engine.writing import EngineStats, engine_stats
from sparsing.errors import InputError
from sparsing.hardware.bandwidth import measure_bandwidth
from sparsing.hardware.machine import processor_name

if TYPE_CHECKING:
    from sparsing.rules.thresholds import Thresholds

    Decode = Callable[[int], object]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GgufPlan:
    """Settings of a benchmark of a GGUF file, validated on construction.

    Raises:
        InputError: If there are fewer than 1 round, 3 tokens or 1 thread.
    """

    rounds: int = 5
    new_tokens: int = 32
    """Tokens that each engine decodes per round; the first is not timed."""
    threads: int | None = None
    """CPU threads of every engine; None takes the number that torch uses."""
    with_llama_cpp: bool = True
    two_part_inputs: bool = False
    """As in `open_engine`."""

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.new_tokens < 3 or (self.threads is not None and self.threads < 1):
            raise InputError(
                "timing a GGUF file needs at least 1 round, 3 tokens and 1 thread, got"
                f" {self.rounds}, {self.new_tokens} and {self.threads}"
            )


def bench_gguf(
    path: str | Path,
    thresholds: Thresholds | None,
    plan: GgufPlan,
    *,
    text: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> GgufBenchmark:
    """Time one file at batch 1.

    Args:
        thresholds: None for a ReLU model, whose neurons with a zero gate are skipped.
        text: Token ids to decode; None takes random ids.

    Raises:
        InputError: If the file or the thresholds do not fit, or the text is shorter than `plan.new_tokens`.
        UnsupportedModelError: If the engine does not compute this architecture.
    """
    with ExitStack() as stack:
        engine = stack.enter_context(
            open_engine(
                path,
                context=plan.new_tokens,
                threads=plan.threads,
                two_part_inputs=plan.two_part_inputs,
            )
        )
        ids = random_ids(engine, plan.new_tokens) if text is None else list(text)[: plan.new_tokens]
        if len(ids) < plan.new_tokens:
            raise InputError(
                f"the text has {len(ids)} tokens, {plan.new_tokens} are needed; give a longer text"
            )
        bandwidth = measure_bandwidth(threads=engine.threads)
        dense, sparse = dense_rule(engine.arch), sparse_rule(engine.arch, engine.weights, thresholds)
        engine.rule = sparse
        ratios = choose_ways(engine, ids)
        copies = sparse.copy_bytes, sparse.copy_error
        engines: dict[str, tuple[Callable[[], None], Decode]] = {
            OWN_DENSE: (lambda: _start(engine, dense), lambda token: engine.read([token])),
            OWN_SPARSE: (lambda: _start(engine, sparse), lambda token: engine.read([token])),
        }
        left_out = []
        if plan.with_llama_cpp:
            try:
                llama = stack.enter_context(
                    closing(LlamaCpp(Path(path), threads=engine.threads, context=plan.new_tokens))
                )
                engines = {LLAMA_CPP: (llama.reset, lambda token: llama.decode([token])), **engines}
            except (ImportError, ValueError) as error:
                left_out.append(f"llama.cpp: {error}")
        seconds: dict[str, list[float]] = {name: [] for name in engines}
        stats: dict[str, EngineStats] = {}
        with (progress or Progress(False)).bar("rounds", plan.rounds + 1) as advance:
            for turn in range(plan.rounds + 1):
                names = list(engines)
                for name in names[turn % len(names) :] + names[: turn % len(names)]:
                    start, decode = engines[name]
                    start()
                    taken = _decode(decode, ids)
                    if turn:  # the first round wakes threads and fills caches
                        seconds[name] += taken
                    if name != LLAMA_CPP:
                        stats[name] = engine_stats(engine, len(ids))
                advance(1)
        return GgufBenchmark(
            file=Path(path).name,
            weight_types=dict(Counter(t.type_name for t in engine.weights.file.tensors.values())),
            threads=engine.threads,
            rounds=plan.rounds,
            context=plan.new_tokens,
            lines=_lines(seconds, stats, bandwidth.peak_bytes_per_sec),
            dense=stats[OWN_DENSE],
            sparse=stats[OWN_SPARSE],
            way_ratios=tuple(map(float, ratios)),
            copy_bytes=copies[0],
            copy_error=copies[1],
            left_out=tuple(left_out),
            bandwidth=bandwidth,
            processor=processor_name(),
            provenance=made_now(model=Path(path).name),
        )


def _start(engine: GgufEngine, rule: EngineRule) -> None:
    """Empty the cache and set the rule; the counts start at zero."""
    engine.rewind()
    engine.rule = rule
    engine.reset_counts()


def _decode(decode: Decode, ids: Sequence[int]) -> list[float]:
    """Seconds of each token but the first."""
    stamps = []
    for token in ids:
        decode(token)
        stamps.append(time.perf_counter())
    return [float(value) for value in np.diff(stamps)]


def _lines(
    seconds: dict[str, list[float]], stats: dict[str, EngineStats], peak: float
) -> tuple[GgufTiming, ...]:
    medians = {name: float(np.median(times)) for name, times in seconds.items()}
    base = medians.get(LLAMA_CPP, medians[OWN_DENSE])
    lines = []
    for name, times in seconds.items():
        low, high = 1e3 * np.percentile(times, [25, 75])
        moved = stats[name].bytes_per_token if name in stats else stats[OWN_DENSE].dense_bytes_per_token
        lines.append(
            GgufTiming(
                name=name,
                tok_per_sec=1 / medians[name],
                ms=1e3 * medians[name],
                ms_low=float(low),
                ms_high=float(high),
                bytes_per_token=moved,
                bandwidth_share=moved / medians[name] / peak,
                speedup=base / medians[name],
            )
        )
    return tuple(lines)
