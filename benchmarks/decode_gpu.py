"""Times one feed-forward block on a CUDA GPU at batch 1 to 8: dense engines against the sparse kernels.

    python benchmarks/decode_gpu.py                        # the table of both shapes
    python benchmarks/decode_gpu.py --tune --shapes 8B     # search for better tile sizes

Weights are planted (`sparsing.bench.planted`). The layers are copies of one block, so many that eight times the L2
cache is read between two uses of a weight. All calls of an engine run in one CUDA graph, all engines run in turn in
every round, and each round has new tokens. Times are medians; the spread is half the distance of the quartiles.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence

import torch
from _common import save
from torch.nn import functional as F

from sparsing.bench.planted import PlantedBlock, plant_block
from sparsing.decode.kernels.cuts import no_cuts
from sparsing.decode.kernels.gpu.block import TritonFFN
from sparsing.decode.kernels.gpu.tiles import MORE_TOKENS, ONE_TOKEN, Tiles
from sparsing.decode.kernels.packing import PackedFFN
from sparsing.decode.kernels.plain import active_mass
from sparsing.decode.predict.quantised import build_predictor, recall_of
from sparsing.hardware.bandwidth import CACHE_MULTIPLE, measure_bandwidth

SHAPES = {"8B": (4096, 14336), "2.4B": (2304, 5760)}
"""d_model and d_ff of Llama-3-8B and of the largest model of the Sparsing Law paper."""
DEVICE = "cuda"
NUM_DENSE = 3
"""The first engines are dense; the second of them is compiled."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class GpuEngine:
    """One way to compute every layer."""

    name: str
    calls: list[Callable[[torch.Tensor], torch.Tensor]]
    """One call per layer."""
    blocks: list[TritonFFN]
    """Kernels that count their reads; empty if the engine reads all weights."""
    recall: float | None = None
    """Recall of the predictor on tokens that did not calibrate it."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Case:
    """A shape at one activation ratio and batch, and how long it is timed."""

    shape: str
    planted: PlantedBlock
    layers: list[PackedFFN]
    ratio: float
    batch: int
    warmup: int
    rounds: int

    @property
    def dense_bytes(self) -> int:
        """Bytes of one block."""
        return self.planted.packed.d_ff * self.layers[0].neuron_bytes

    def inputs(self) -> Iterator[torch.Tensor]:
        """Endless batches of tokens, no token twice."""
        seed = 1000
        while True:
            yield from self.planted.inputs(64 * self.batch, self.ratio, seed=seed).split(self.batch)
            seed += 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class GpuTiming:
    """The result of one engine; the names are those of the saved JSON."""

    shape: str
    ratio: float
    batch: int
    path: str
    ms_per_ffn: float
    spread_ms: float
    speedup_over_compiled: float
    speedup_over_best_dense: float
    weight_bytes: float
    bytes_per_sec: float
    bandwidth_share: float
    ceiling: float
    ceiling_share: float
    recall: float | None


def main() -> None:
    args = _arguments()
    if not torch.cuda.is_available():
        sys.exit(
            "decode_gpu.py needs a CUDA device; the kernels' results are tested without a GPU (docs/gpu.md)"
        )
    bandwidth = measure_bandwidth(device=DEVICE)
    rows: list[GpuTiming] = []
    for shape in args.shapes:
        planted = plant_block(*SHAPES[shape])
        layers = copy_layers(planted, args.dtype)
        if args.tune:
            tune(planted, layers, args)
            continue
        for ratio in args.ratios:
            for batch in args.batches:
                case = Case(
                    shape=shape,
                    planted=planted,
                    layers=layers,
                    ratio=ratio,
                    batch=batch,
                    warmup=args.warmup,
                    rounds=args.rounds,
                )
                timings = time_case(case, bandwidth.peak_bytes_per_sec)
                show(timings)
                rows += timings
    if rows:
        gpu = {"gpu": torch.cuda.get_device_name(), "l2_bytes": _l2_bytes()}
        options = {"dtype": args.dtype, "rounds": args.rounds, "weights": "planted"}
        documents = [dataclasses.asdict(row) for row in rows]
        save("decode_gpu", {**gpu, **options, "bandwidth": bandwidth.to_dict(), "rows": documents})


def copy_layers(planted: PlantedBlock, dtype: str) -> list[PackedFFN]:
    """Copies of the block on the GPU, at least two, that together fill `CACHE_MULTIPLE` L2 caches."""
    block = planted.packed.to(getattr(torch, dtype))
    number = max(2, -(-CACHE_MULTIPLE * _l2_bytes() // (block.d_ff * block.neuron_bytes)))
    return [block.to(DEVICE) for _ in range(number)]


def make_engines(case: Case) -> list[GpuEngine]:
    """Dense by PyTorch, eager and compiled, and by our kernels; sparse exact and with both predictors."""
    planted, layers = case.planted, case.layers
    cuts = no_cuts(planted.packed.d_ff)
    dense = [torch_dense(layer) for layer in layers]
    exact = [TritonFFN(layer, cuts) for layer in layers]
    engines = [
        GpuEngine(name="torch eager", calls=dense, blocks=[]),
        GpuEngine(name="torch.compile", calls=[torch.compile(call) for call in dense], blocks=[]),
        GpuEngine(name="own dense", calls=[block.dense for block in exact], blocks=exact),
        GpuEngine(name="exact", calls=[block.sparse for block in exact], blocks=exact),
    ]
    sample, heldout = (
        planted.inputs(tokens, case.ratio, seed=seed) for tokens, seed in ((256, 11), (64, 12))
    )
    for bits in (4, 8):
        predictor = build_predictor(planted.packed, cuts, sample, bits=bits)
        mass = active_mass(planted.packed, heldout, cuts)
        blocks = [TritonFFN(layer, cuts, predictor) for layer in layers]
        engines.append(
            GpuEngine(
                name=f"predicted, {bits} bits",
                calls=[block.sparse for block in blocks],
                blocks=blocks,
                recall=recall_of(predictor.predict(heldout, "relu"), mass),
            )
        )
    return engines


def torch_dense(packed: PackedFFN) -> Callable[[torch.Tensor], torch.Tensor]:
    """The block as a model computes it, with `down_proj` in the layout of `nn.Linear`."""
    down = packed.down.T.contiguous()
    return lambda x: F.linear(F.relu(F.linear(x, packed.gate)) * F.linear(x, packed.up), down)


def time_case(case: Case, peak_bytes_per_sec: float) -> list[GpuTiming]:
    """Time all engines in turn, round by round; one result per engine."""
    engines = make_engines(case)
    layers = case.layers
    x = torch.empty(case.batch, case.planted.packed.d_model, device=DEVICE, dtype=layers[0].gate.dtype)
    replays = [capture(engine, x) for engine in engines]
    times: list[list[float]] = [[] for _ in engines]
    read = [0] * len(engines)
    tokens = case.inputs()
    for turn in range(-case.warmup, case.rounds):
        x.copy_(next(tokens))  # the graphs read their input from this tensor
        for index, (engine, replay) in enumerate(zip(engines, replays, strict=True)):
            for block in engine.blocks:
                block.reset_counts()
            ms = elapsed_ms(replay) / len(layers)
            if turn >= 0:
                times[index].append(ms)
                read[index] += sum(block.bytes_read() for block in engine.blocks)
    medians = [statistics.median(values) for values in times]
    best_dense, compiled = min(medians[:NUM_DENSE]), medians[1]
    calls = case.rounds * len(layers)
    timings = []
    for engine, values, median, total in zip(engines, times, medians, read, strict=True):
        moved = total / calls if engine.blocks else case.dense_bytes
        timings.append(
            GpuTiming(
                shape=case.shape,
                ratio=case.ratio,
                batch=case.batch,
                path=engine.name,
                ms_per_ffn=median,
                spread_ms=_spread(values),
                speedup_over_compiled=compiled / median,
                speedup_over_best_dense=best_dense / median,
                weight_bytes=moved,
                bytes_per_sec=moved / median * 1e3,
                bandwidth_share=moved / median * 1e3 / peak_bytes_per_sec,
                ceiling=case.dense_bytes / moved,
                ceiling_share=best_dense / median / (case.dense_bytes / moved),
                recall=engine.recall,
            )
        )
    return timings


def capture(engine: GpuEngine, x: torch.Tensor) -> Callable[[], None]:
    """A CUDA graph that computes every layer once on `x`; returns the call that replays it."""
    for call in engine.calls:
        call(x)  # compiles, which a graph cannot record
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in engine.calls:
            call(x)
    return graph.replay


def elapsed_ms(replay: Callable[[], None]) -> float:
    """Milliseconds of one replay on the device."""
    began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    began.record()
    replay()
    ended.record()
    torch.cuda.synchronize()
    return began.elapsed_time(ended)


def tune(planted: PlantedBlock, layers: list[PackedFFN], args: argparse.Namespace) -> None:
    """Halve or double one tile size at a time, keep changes that gain more than 2%, and print the best tiles."""
    cuts, ratio = no_cuts(planted.packed.d_ff), args.ratios[0]
    predictor = build_predictor(planted.packed, cuts, planted.inputs(256, ratio, seed=11))
    for batch, tiles in ((1, ONE_TOKEN), (8, MORE_TOKENS)):
        x = planted.inputs(batch, ratio, seed=13).to(DEVICE, layers[0].gate.dtype)

        def cost(tiles: Tiles, x: torch.Tensor = x) -> float:
            # the predicted, the exact and the dense pass share the tiles, so their times are added
            total = 0.0
            for kind in (None, predictor):
                blocks = [TritonFFN(layer, cuts, kind, one=tiles, more=tiles) for layer in layers]
                for calls in ([block.sparse for block in blocks], [block.dense for block in blocks]):
                    replay = capture(GpuEngine(name="", calls=calls, blocks=blocks), x)
                    total += statistics.median(elapsed_ms(replay) for _ in range(args.rounds)) / len(layers)
            return total

        best = cost(tiles)
        for field in dataclasses.fields(Tiles):
            for factor in (0.5, 2.0):
                size = int(getattr(tiles, field.name) * factor)
                try:
                    candidate = dataclasses.replace(tiles, **{field.name: size})
                    if not _is_allowed(candidate, batch):
                        continue
                    ms = cost(candidate)
                except Exception as error:  # the compiler rejects the size, or it exceeds the shared memory
                    print(f"batch {batch}: {field.name}={size}: {type(error).__name__}")
                    continue
                print(f"batch {batch}: {field.name}={size}: {ms:.4f} ms, best so far {best:.4f}", flush=True)
                if ms < 0.98 * best:
                    best, tiles = ms, candidate
        print(f"batch {batch}: {tiles}")


def _is_allowed(tiles: Tiles, batch: int) -> bool:
    """False if the tiles cannot be fast: tensor cores need 16 rows, and more than 6 stages exceed shared memory."""
    rows = min(tiles.gate_rows, tiles.hidden_rows, tiles.down_rows)
    return tiles.stages <= 6 and (batch == 1 or rows >= 16)


def show(timings: Sequence[GpuTiming]) -> None:
    first = timings[0]
    print(f"\n{first.shape}, {first.ratio:.1%} active, batch {first.batch}")
    print(
        "path               ms/FFN  +-      GB/s  of peak  x compiled  x best dense  ceiling  share  recall"
    )
    for row in timings:
        recall = "" if row.recall is None else f"{row.recall:.4f}"
        print(
            f"{row.path:18} {row.ms_per_ffn:.4f} {row.spread_ms:.4f} {row.bytes_per_sec / 1e9:6.0f}"
            f" {row.bandwidth_share:7.0%} {row.speedup_over_compiled:10.2f}"
            f" {row.speedup_over_best_dense:13.2f} {row.ceiling:9.2f} {row.ceiling_share:6.0%}  {recall}"
        )


def _spread(times: list[float]) -> float:
    low, _, high = statistics.quantiles(times, n=4)
    return (high - low) / 2


def _l2_bytes() -> int:
    return torch.cuda.get_device_properties(DEVICE).L2_cache_size


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument(
        "--shapes", nargs="+", choices=sorted(SHAPES), default=list(SHAPES), help="shapes (default: both)"
    )
    parser.add_argument(
        "--ratios",
        nargs="+",
        type=float,
        default=[0.065, 0.02, 0.2, 0.5, 1.0],
        help="activation ratios in (0, 1] (default: 0.065 0.02 0.2 0.5 1)",
    )
    parser.add_argument(
        "--batches",
        nargs="+",
        type=int,
        default=[1, 2, 4, 8],
        help="tokens at once, 1 to 8 (default: 1 2 4 8)",
    )
    parser.add_argument("--dtype", choices=["bfloat16", "float16"], default="bfloat16")
    parser.add_argument("--rounds", type=int, default=50, help="timed rounds (default: 50)")
    parser.add_argument("--warmup", type=int, default=5, help="rounds before the timed ones (default: 5)")
    parser.add_argument("--tune", action="store_true", help="search for better tile sizes at the first ratio")
    return parser.parse_args()


if __name__ == "__main__":
    main()
