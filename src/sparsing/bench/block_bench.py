"""Times one feed-forward block of a model shape: dense engines against the sparse kernels, on planted weights.

`bench_blocks` runs a `BlockPlan` on the CPU and returns a `BlockBenchmark`. All engines of a group (shape, dtype and
batch) are timed in turn in the same process. `docs/benchmarks.md` describes the method.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np
import torch

from sparsing.base.progress import Progress
from sparsing.base.provenance import made_now
from sparsing.bench import engines
from sparsing.bench.block_result import BlockBenchmark, BlockTiming
from sparsing.bench.engines import Engine, block_bytes
from sparsing.bench.interleaved_timing import CacheFlush, time_engines
from sparsing.bench.planted import SPREAD, PlantedBlock, plant_block
from sparsing.bench.reference_output import ReferenceOutput
from sparsing.decode.kernels.dispatch import check_kernels
from sparsing.decode.kernels.interface import MAX_TOKENS
from sparsing.decode.kernels.packing import PackedFFN, convert_weights
from sparsing.decode.kernels.pages import copy_to_huge_pages, move_to_huge_pages
from sparsing.errors import InputError
from sparsing.hardware.bandwidth import Bandwidth, measure_bandwidth, uncached_bytes
from sparsing.hardware.machine import inference_threads, processor_name

if TYPE_CHECKING:
    from sparsing.bench.shapes import DecodeShape

BENCH_DTYPES = ("float32", "bfloat16", "int8")
RATIOS = (0.02, 0.065, 0.1, 0.2, 0.4, 0.7, 1.0)
BATCHES = (1, 2, 4, 8)
INPUT_TOKENS = 64
"""Different tokens that the timed calls go through."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockPlan:
    """Settings of a block benchmark, validated on construction.

    Raises:
        InputError: if a ratio, a batch, the number of rounds or a dtype is outside its range.
    """

    ratios: tuple[float, ...] = RATIOS
    """Requested activation ratios, each in (0, 1]."""
    batches: tuple[int, ...] = BATCHES
    """Tokens decoded at once, 1 to 8."""
    dtypes: tuple[str, ...] = BENCH_DTYPES
    """Dtypes of the weights: `float32`, `bfloat16`, `int8`."""
    bits: tuple[int, ...] = (4, 8)
    """Widths of the predictors."""
    recall: float = 0.995
    """Recall that the predictors are calibrated for, a share."""
    rounds: int = 15
    """Timed rounds."""
    threads: int = 0
    """CPU threads; 0 for as many as torch uses."""
    engines: tuple[str, ...] = ("eager", "compile", "llama.cpp")
    """Dense engines that are timed besides our own dense kernel."""
    cycled_bytes: int = 0
    """Bytes of dense weights in all timed layers together; 0 for 8 times the last-level cache."""

    def __post_init__(self) -> None:
        if not self.ratios or not all(0 < ratio <= 1 for ratio in self.ratios):
            raise InputError(
                f"ratios must be in (0, 1], got {self.ratios}; write 0.065 for 6.5% of the neurons"
            )
        if not self.batches or not all(1 <= batch <= MAX_TOKENS for batch in self.batches):
            raise InputError(f"batches must be 1 to {MAX_TOKENS} tokens, got {self.batches}")
        if self.rounds < 1:
            raise InputError(f"rounds must be 1 or more, got {self.rounds}; the default is 15")
        if unknown := set(self.dtypes) - set(BENCH_DTYPES):
            raise InputError(
                f"dtypes must be among {', '.join(BENCH_DTYPES)}, got {', '.join(sorted(unknown))}"
            )


def bench_blocks(
    shapes: Sequence[DecodeShape], plan: BlockPlan, *, progress: Progress | None = None
) -> BlockBenchmark:
    """Time a block of every shape on the CPU.

    Raises:
        InputError: if the bits or the recall of the predictors are not supported, or if Numba is not installed.
    """
    check_kernels("cpu")
    run = _Run(plan)
    total = len(shapes) * len(plan.dtypes) * len(plan.batches)
    with inference_threads(run.threads), (progress or Progress(False)).bar("groups timed", total) as advance:
        for shape in shapes:
            planted = plant_block(shape.d_model, shape.d_ff)
            for dtype in plan.dtypes:
                run.time_dtype(shape, dtype, planted, advance)
    return run.result(shapes)


@dataclasses.dataclass(frozen=True, eq=False)
class _Case:
    """The layers of one shape in one dtype, and their inputs."""

    shape: DecodeShape
    dtype: str
    layers: list[PackedFFN]
    downs: list[torch.Tensor]
    """`down_proj.weight` as torch reads it, shape `(d_model, d_ff)`, one per layer; empty for int8."""
    inputs: dict[float | None, torch.Tensor]
    """Requested activation ratio to inputs, shape `(INPUT_TOKENS, d_model)`; None for dense engines."""
    reference: ReferenceOutput

    @property
    def dense_bytes(self) -> int:
        return block_bytes(self.layers[0])


class _Run:
    """Timings and notes of a run, collected case by case."""

    def __init__(self, plan: BlockPlan):
        self.plan = plan
        self.threads = plan.threads or torch.get_num_threads()
        self.flushed_bytes = plan.cycled_bytes or uncached_bytes()
        self.flush = CacheFlush(self.flushed_bytes)
        self.bandwidth: Bandwidth = measure_bandwidth(threads=self.threads)
        self.lines: list[BlockTiming] = []
        self.cycled: dict[str, int] = {}
        self.compile_sec: dict[str, float] = {}
        self.left_out: list[str] = []

    def result(self, shapes: Sequence[DecodeShape]) -> BlockBenchmark:
        """All timings so far, with the settings of the run."""
        plan, names = self.plan, ",".join(shape.name for shape in shapes)
        return BlockBenchmark(
            lines=tuple(self.lines),
            bandwidth=self.bandwidth,
            threads=self.threads,
            rounds=plan.rounds,
            cycled_bytes=self.cycled,
            flushed_bytes=self.flushed_bytes,
            compile_sec=self.compile_sec,
            left_out=tuple(self.left_out),
            weights="random, with the requested activation ratio planted"
            f" (docs/benchmarks.md, 'Planted weights', spread {SPREAD:g})",
            processor=processor_name(),
            provenance=made_now(model=names, dtype=",".join(plan.dtypes), device="cpu"),
        )

    def time_dtype(
        self, shape: DecodeShape, dtype: str, planted: PlantedBlock, advance: Callable[[int], None]
    ) -> None:
        """Time all batches of a shape in a dtype, on the same layers."""
        packed = convert_weights(planted.packed, dtype)
        # one more than needed, since the first layer is not timed
        count = max(2, -(-self.flushed_bytes // block_bytes(packed))) + 1
        layers = [move_to_huge_pages(packed, fused=False) for _ in range(count)]
        downs = [] if dtype == "int8" else [copy_to_huge_pages(packed.down.T) for _ in layers]
        self.cycled[f"{shape.name} {dtype}"] = block_bytes(packed) * (count - 1)
        kind = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        # dense engines get inputs that activate all neurons, so that a kernel that skips zeros finds none
        inputs: dict[float | None, torch.Tensor] = {
            ratio: planted.inputs(INPUT_TOKENS, 1.0 if ratio is None else ratio, seed=2).to(kind)
            for ratio in (None, *self.plan.ratios)
        }
        reference = ReferenceOutput(packed, inputs)
        case = _Case(shape, dtype, layers, downs, inputs, reference)
        with ExitStack() as stack:
            # these serve every batch; only torch.compile has to compile for each batch size
            fixed = [*self._own_engines(layers, planted), *self._llama_cpp_engines(case, stack)]
            for batch in self.plan.batches:
                group = [*self._torch_engines(case, batch), *fixed]
                times = time_engines(group, inputs, batch=batch, rounds=self.plan.rounds, flush=self.flush)
                self.lines += self._timings(case, batch, group, times)
                advance(1)

    def _own_engines(self, layers: list[PackedFFN], planted: PlantedBlock) -> Iterator[Engine]:
        yield engines.dense_engine(layers)
        for ratio in self.plan.ratios:
            yield from engines.sparse_engines(
                layers, planted, ratio, bits=self.plan.bits, recall=self.plan.recall
            )

    def _torch_engines(self, case: _Case, batch: int) -> Iterator[Engine]:
        if case.dtype == "int8":
            self._leave_out("torch: its public linear layers have no int8 weights")
            return
        if "eager" in self.plan.engines:
            yield engines.torch_eager(case.layers, case.downs)
        if "compile" in self.plan.engines:
            try:
                engine, seconds = engines.torch_compiled(case.layers, case.downs, case.inputs[None][:batch])
            except InputError as error:
                self._leave_out(str(error))
                return
            self.compile_sec[f"{case.shape.name} {case.dtype} {batch}"] = seconds
            yield engine

    def _llama_cpp_engines(self, case: _Case, stack: ExitStack) -> Iterator[Engine]:
        if "llama.cpp" in self.plan.engines:
            try:
                yield from engines.llama_cpp_engines(
                    case.shape, case.dtype, count=len(case.layers), threads=self.threads, stack=stack
                )
            except InputError as error:
                self._leave_out(str(error))

    def _leave_out(self, reason: str) -> None:
        if reason not in self.left_out:
            self.left_out.append(reason)

    def _timings(
        self, case: _Case, batch: int, group: Sequence[Engine], times: np.ndarray
    ) -> Iterator[BlockTiming]:
        """One result per engine from `times`, milliseconds of shape `(engines, rounds)`."""
        # medians, since other work on the machine makes a few samples far too slow
        medians = np.median(times, axis=1)
        best = min((i for i, engine in enumerate(group) if engine.dense), key=lambda i: medians[i])
        for engine, row, median in zip(group, times, medians, strict=True):
            # read the counters first: judging calls the engine once more
            moved, read_ratio = self._bytes_moved(case, engine)
            # quotients within a round, because both times then met the same state of the machine
            low, high = np.percentile(times[best] / row, [25, 75])
            speedup, ceiling = medians[best] / median, case.dense_bytes / moved
            bytes_per_sec = moved / (median / 1e3)
            yield BlockTiming(
                shape=case.shape.name,
                dtype=case.dtype,
                batch=batch,
                name=engine.name,
                ratio=engine.ratio,
                ms=float(median),
                ms_low=float(np.percentile(row, 25)),
                ms_high=float(np.percentile(row, 75)),
                speedup=float(speedup),
                speedup_low=float(low),
                speedup_high=float(high),
                read_ratio=read_ratio,
                bytes_moved=moved,
                bytes_per_sec=bytes_per_sec,
                bandwidth_share=bytes_per_sec / self.bandwidth.peak_bytes_per_sec,
                byte_ceiling=ceiling,
                ceiling_share=float(speedup / ceiling),
                **dataclasses.asdict(case.reference.judge(engine)),
            )

    def _bytes_moved(self, case: _Case, engine: Engine) -> tuple[float, float | None]:
        """Bytes read per block, and the share of neurons whose row of `down_proj` was read (None if not counted)."""
        if not engine.blocks:
            return engine.dense_bytes, None
        calls = self.plan.rounds * len(engine.calls)
        read = sum(int(block.counts.down) for block in engine.blocks) / (calls * case.layers[0].d_ff)
        return sum(block.bytes_read() for block in engine.blocks) / calls, read
