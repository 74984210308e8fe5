"""Times one feed-forward block of a shape: dense engines against the sparse kernels, in one run, on planted weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np
import torch

from sparsing.base.progress import Progress
from sparsing.base.provenance import made_now
from sparsing.bench import engines as field
from sparsing.bench.block_result import FFNBench, FFNLine
from sparsing.bench.engines import Contestant
from sparsing.bench.planted import SPREAD, Planted, plant
from sparsing.bench.rounds import Flush, timed_rounds
from sparsing.bench.truth import Truth
from sparsing.decode.kernels.dispatch import check_kernels
from sparsing.decode.kernels.pages import on_huge_pages
from sparsing.errors import InputError
from sparsing.hardware.bandwidth import CACHE_MULTIPLE, Bandwidth, last_cache_bytes, measure_bandwidth
from sparsing.hardware.machine import processor, with_threads

if TYPE_CHECKING:
    from sparsing.bench.shapes import DecodeShape
    from sparsing.decode.kernels.packing import PackedFFN

RATIOS = (0.02, 0.065, 0.1, 0.2, 0.4, 0.7, 1.0)
BATCHES = (1, 2, 4, 8)
POOL_TOKENS = 64
"""Tokens that the timed calls go through."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FFNPlan:
    """What is timed."""

    ratios: tuple[float, ...] = RATIOS
    """Wanted activation ratios, each in (0, 1]."""
    batches: tuple[int, ...] = BATCHES
    """Tokens at once, 1 to 8."""
    dtypes: tuple[str, ...] = field.DTYPES
    bits: tuple[int, ...] = (4, 8)
    """Widths of predictors."""
    recall: float = 0.995
    """That the predictors are calibrated for."""
    rounds: int = 15
    threads: int = 0
    """0: as many as torch uses."""
    engines: tuple[str, ...] = ("eager", "compile", "llama.cpp")
    """Dense engines beside the own one."""
    cycled_bytes: int = 0
    """Dense weights that are cycled through; 0: 8 times the last cache."""

    def __post_init__(self) -> None:
        if not self.ratios or not all(0 < ratio <= 1 for ratio in self.ratios):
            raise InputError(f"ratios must be in (0, 1], got {self.ratios}; 0.065 is 6.5% of the neurons")
        if not self.batches or not all(1 <= batch <= 8 for batch in self.batches):
            raise InputError(f"batches must be 1 to 8 tokens, got {self.batches}")
        if self.rounds < 1:
            raise InputError(f"rounds must be 1 or more, got {self.rounds}; 15 is the default")
        if unknown := set(self.dtypes) - set(field.DTYPES):
            raise InputError(f"dtypes are {', '.join(field.DTYPES)}, got {', '.join(sorted(unknown))}")


def bench_ffn(shapes: Sequence[DecodeShape], plan: FFNPlan, *, progress: Progress | None = None) -> FFNBench:
    """Time `plan` on every shape, on the CPU.

    Raises:
        InputError: a predictor's bits or recall that are none, or no Numba for the kernels.
    """
    check_kernels("cpu")
    threads = plan.threads or torch.get_num_threads()
    cycled = plan.cycled_bytes or CACHE_MULTIPLE * last_cache_bytes()
    run = _Run(plan, threads, cycled, Flush(cycled), measure_bandwidth(threads=threads))
    total = len(shapes) * len(plan.dtypes) * len(plan.batches)
    with with_threads(threads), (progress or Progress(False)).bar("groups timed", total) as advance:
        for shape in shapes:
            planted = plant(shape.d_model, shape.d_ff)
            for dtype in plan.dtypes:
                run.dtype(shape, dtype, planted, advance)
    return FFNBench(
        lines=tuple(run.lines),
        bandwidth=run.bandwidth,
        threads=threads,
        rounds=plan.rounds,
        cycled_bytes=run.cycled,
        flushed_bytes=cycled,
        compile_sec=run.compile_sec,
        left_out=tuple(run.left_out),
        weights=f"planted: random, natural ReLU ratio as wanted, probit of the frequencies normal with {SPREAD:g}",
        processor=processor(),
        provenance=made_now(
            model=",".join(shape.name for shape in shapes), dtype=",".join(plan.dtypes), device="cpu"
        ),
    )


class _Run:
    """Lines and notes of a run as it goes on."""

    def __init__(self, plan: FFNPlan, threads: int, size: int, flush: Flush, bandwidth: Bandwidth):
        self.plan, self.threads, self.size, self.flush, self.bandwidth = plan, threads, size, flush, bandwidth
        self.lines: list[FFNLine] = []
        self.cycled: dict[str, int] = {}
        self.compile_sec: dict[str, float] = {}
        self.left_out: list[str] = []

    def dtype(self, shape: DecodeShape, dtype: str, planted: Planted, advance) -> None:
        """All batches of a shape in a dtype, on the same layers."""
        packed = field.as_dtype(planted.packed, dtype)
        dense_bytes = packed.neuron_bytes * packed.d_ff
        count = max(2, -(-self.size // dense_bytes)) + 1  # the first layer is not timed
        layers = field.copies(packed, count)
        downs = [] if dtype == "int8" else [on_huge_pages(packed.down.T) for _ in layers]
        self.cycled[f"{shape.name} {dtype}"] = dense_bytes * (count - 1)
        kind = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        # all neurons are active for dense engines: a kernel that looks for zeros finds none
        pools: dict[float | None, torch.Tensor] = {None: planted.inputs(POOL_TOKENS, 1.0, seed=2).to(kind)}
        pools |= {ratio: planted.inputs(POOL_TOKENS, ratio, seed=2).to(kind) for ratio in self.plan.ratios}
        truth = Truth(packed, pools)
        with ExitStack() as stack:
            fixed = [*self._own(layers, planted), *self._llama(shape, dtype, count, stack)]
            for batch in self.plan.batches:
                lines = [*self._torch(shape, dtype, batch, layers, downs, pools), *fixed]
                times = timed_rounds(lines, pools, batch=batch, rounds=self.plan.rounds, flush=self.flush)
                self.lines += self._group(shape, dtype, batch, packed, lines, truth, times)
                advance(1)

    def _own(self, layers: list[PackedFFN], planted: Planted) -> Iterator[Contestant]:
        yield field.dense_kernel(layers)
        for ratio in self.plan.ratios:
            yield from field.sparse_kernels(
                layers, planted, ratio, bits=self.plan.bits, recall=self.plan.recall
            )

    def _torch(self, shape, dtype, batch, layers, downs, pools) -> Iterator[Contestant]:
        if dtype == "int8":
            self._leave_out("torch: no int8 weights in its public linear layers")
            return
        if "eager" in self.plan.engines:
            yield field.torch_eager(layers, downs)
        if "compile" in self.plan.engines:
            try:
                contestant, seconds = field.torch_compiled(layers, downs, pools[None][:batch])
            except InputError as error:
                self._leave_out(str(error))
                return
            self.compile_sec[f"{shape.name} {dtype} {batch}"] = seconds
            yield contestant

    def _llama(self, shape, dtype, count, stack) -> Iterator[Contestant]:
        if "llama.cpp" in self.plan.engines:
            try:
                yield from field.llama_cpps(shape, dtype, count=count, threads=self.threads, stack=stack)
            except InputError as error:
                self._leave_out(str(error))

    def _leave_out(self, why: str) -> None:
        if why not in self.left_out:
            self.left_out.append(why)

    def _group(self, shape, dtype, batch, packed, lines, truth, times) -> Iterator[FFNLine]:
        medians = np.median(times, axis=1)
        best = min((i for i, line in enumerate(lines) if line.dense), key=lambda i: medians[i])
        dense_bytes = packed.neuron_bytes * packed.d_ff
        for line, row, median in zip(lines, times, medians, strict=True):
            moved, read = _moved(line, packed, self.plan.rounds)
            quotients = np.percentile(times[best] / row, [25, 75])
            speedup, ceiling, speed = medians[best] / median, dense_bytes / moved, moved / (median / 1e3)
            yield FFNLine(
                shape=shape.name,
                dtype=dtype,
                batch=batch,
                name=line.name,
                ratio=line.ratio,
                ms=float(median),
                ms_low=float(np.percentile(row, 25)),
                ms_high=float(np.percentile(row, 75)),
                speedup=float(speedup),
                speedup_low=float(quotients[0]),
                speedup_high=float(quotients[1]),
                read_ratio=read,
                bytes_moved=moved,
                bytes_per_sec=speed,
                bandwidth_share=speed / self.bandwidth.peak_bytes_per_sec,
                byte_ceiling=ceiling,
                ceiling_share=float(speedup / ceiling),
                **truth.quality(line),
            )


def _moved(line: Contestant, packed: PackedFFN, rounds: int) -> tuple[float, float | None]:
    """Bytes read per block, and the share of neurons whose row of `down_proj` was read."""
    if not line.blocks:
        return line.ffn_bytes, None
    calls = rounds * len(line.calls)
    read = sum(int(block.counts[2]) for block in line.blocks) / (calls * packed.d_ff)
    return sum(block.bytes_read() for block in line.blocks) / calls, read
