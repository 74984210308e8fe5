"""One feed-forward block on a CUDA GPU, batch 1-8: dense against sparse, beside the ceiling that bytes set.

    python benchmarks/decode_gpu.py                        # the table of both shapes
    python benchmarks/decode_gpu.py --tune --shapes 8B     # other tiles, one size at a time

Weights are planted (`sparsing.bench.planted`). Blocks are cycled so that eight times the L2 cache lies between two
uses of a weight, every call is inside a CUDA graph, and all contestants run in turn in every round, each round on
tokens of its own. Figures are medians; the spread is half the distance between the quartiles.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from _common import save
from torch.nn import functional as F

from sparsing.bench.planted import Planted, plant
from sparsing.decode.kernels.cuts import no_cuts
from sparsing.decode.kernels.gpu.block import TritonFFN
from sparsing.decode.kernels.gpu.tiles import MORE_TOKENS, ONE_TOKEN, Tiles
from sparsing.decode.kernels.packing import PackedFFN
from sparsing.decode.kernels.plain import hidden
from sparsing.decode.predict.quantised import build_predictor, recall_of
from sparsing.hardware.bandwidth import CACHE_MULTIPLE, measure_bandwidth

SHAPES = {"8B": (4096, 14336), "2.4B": (2304, 5760)}
"""d_model and d_ff of Llama-3-8B and of the largest model of the Sparsing Law paper."""
DEVICE = "cuda"


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Contestant:
    """One way to compute every block of the cycle."""

    name: str
    calls: list[Callable[[torch.Tensor], torch.Tensor]]
    """One a block."""
    blocks: list[TritonFFN]
    """What counts the bytes; empty where all weights are read."""
    recall: float | None = None
    """Of the predictor, on other tokens than it was made on."""


def main() -> None:
    args = _arguments()
    if not torch.cuda.is_available():
        sys.exit(
            "decode_gpu.py needs a CUDA device; the kernels' results are tested without one (docs/decode.md)"
        )
    bandwidth = measure_bandwidth(device=DEVICE)
    rows = []
    for shape in args.shapes:
        planted = plant(*SHAPES[shape])
        layers = blocks_in_cycle(planted, args.dtype)
        if args.tune:
            tune(planted, layers, args)
            continue
        for ratio in args.ratios:
            for batch in args.batches:
                contestants = line_up(planted, layers, ratio)
                rows += measured(contestants, planted, layers, ratio, batch, args, shape, bandwidth)
                show(rows[-len(contestants) :])
    if rows:
        gpu = {"gpu": torch.cuda.get_device_name(), "l2_bytes": _l2_bytes()}
        options = {"dtype": args.dtype, "rounds": args.rounds, "weights": "planted"}
        save("decode_gpu", {**gpu, **options, "bandwidth": bandwidth.to_dict(), "rows": rows})


def blocks_in_cycle(planted: Planted, dtype: str) -> list[PackedFFN]:
    """Copies of the block on the device, as many as fill `CACHE_MULTIPLE` L2 caches, two at least."""
    weights = (planted.packed.gate, planted.packed.up, planted.packed.down)
    block_bytes = sum(weight.numel() for weight in weights) * 2
    number = max(2, -(-CACHE_MULTIPLE * _l2_bytes() // block_bytes))
    return [
        PackedFFN(gate=gate, up=up, down=down, act="relu")
        for gate, up, down in (
            [weight.to(DEVICE, getattr(torch, dtype)).clone() for weight in weights] for _ in range(number)
        )
    ]


def line_up(planted: Planted, layers: list[PackedFFN], ratio: float) -> list[Contestant]:
    """Dense by PyTorch, eager and compiled, and by these kernels; sparse exact and by both predictors."""
    cuts = no_cuts(planted.packed.d_ff)
    dense = [torch_dense(layer) for layer in layers]
    exact = [TritonFFN(layer, cuts) for layer in layers]
    contestants = [
        Contestant(name="torch eager", calls=dense, blocks=[]),
        Contestant(name="torch.compile", calls=[torch.compile(call) for call in dense], blocks=[]),
        Contestant(name="own dense", calls=[block.dense for block in exact], blocks=exact),
        Contestant(name="exact", calls=[block.sparse for block in exact], blocks=exact),
    ]
    for bits in (4, 8):
        predictor = build_predictor(planted.packed, cuts, planted.inputs(256, ratio, seed=11), bits=bits)
        other = planted.inputs(64, ratio, seed=12)
        mass = hidden(planted.packed, other, cuts).abs() * planted.packed.column_norms()
        recall = recall_of(predictor.predict(other, "relu"), mass)
        blocks = [TritonFFN(layer, cuts, predictor) for layer in layers]
        calls = [block.sparse for block in blocks]
        contestants.append(
            Contestant(name=f"predicted, {bits} bits", calls=calls, blocks=blocks, recall=recall)
        )
    return contestants


def torch_dense(packed: PackedFFN) -> Callable[[torch.Tensor], torch.Tensor]:
    """As the model computes it: `down_proj` keeps the layout of `nn.Linear`."""
    down = packed.down.T.contiguous()
    return lambda x: F.linear(F.relu(F.linear(x, packed.gate)) * F.linear(x, packed.up), down)


def measured(
    contestants: list[Contestant],
    planted: Planted,
    layers: list[PackedFFN],
    ratio: float,
    batch: int,
    args: argparse.Namespace,
    shape: str,
    bandwidth: Any,
) -> list[dict[str, Any]]:
    """One row a contestant."""
    x = torch.empty(batch, planted.packed.d_model, device=DEVICE, dtype=layers[0].gate.dtype)
    replays = [captured(contestant, x) for contestant in contestants]
    times: list[list[float]] = [[] for _ in contestants]
    read = [0] * len(contestants)
    tokens = inputs(planted, ratio, batch)
    for round_ in range(-args.warmup, args.rounds):
        x.copy_(next(tokens))
        for index, (contestant, replay) in enumerate(zip(contestants, replays, strict=True)):
            for block in contestant.blocks:
                block.reset_counts()
            ms = elapsed_ms(replay) / len(layers)
            if round_ >= 0:
                times[index].append(ms)
                read[index] += sum(block.bytes_read() for block in contestant.blocks)
    dense_bytes = planted.packed.d_ff * layers[0].neuron_bytes
    medians = [statistics.median(each) for each in times]
    best_dense = min(medians[:3])
    calls = args.rounds * len(layers)
    return [
        {
            "shape": shape,
            "ratio": ratio,
            "batch": batch,
            "path": contestant.name,
            "ms_per_ffn": median,
            "spread_ms": _spread(each),
            "speedup_over_compiled": medians[1] / median,
            "speedup_over_best_dense": best_dense / median,
            "weight_bytes": (moved := total / calls if contestant.blocks else dense_bytes),
            "bytes_per_sec": moved / median * 1e3,
            "bandwidth_share": moved / median * 1e3 / bandwidth.peak_bytes_per_sec,
            "ceiling": dense_bytes / moved,
            "ceiling_share": best_dense / median / (dense_bytes / moved),
            "recall": contestant.recall,
        }
        for contestant, each, median, total in zip(contestants, times, medians, read, strict=True)
    ]


def inputs(planted: Planted, ratio: float, batch: int) -> Iterator[torch.Tensor]:
    """Batches of tokens that are not seen twice."""
    seed = 1000
    while True:
        yield from planted.inputs(64 * batch, ratio, seed=seed).split(batch)
        seed += 1


def captured(contestant: Contestant, x: torch.Tensor) -> Callable[[], None]:
    """Every block once on `x`, as a CUDA graph; compiled before."""
    for call in contestant.calls:
        call(x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in contestant.calls:
            call(x)
    return graph.replay


def elapsed_ms(replay: Callable[[], None]) -> float:
    """Milliseconds on the device."""
    began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    began.record()
    replay()
    ended.record()
    torch.cuda.synchronize()
    return began.elapsed_time(ended)


def tune(planted: Planted, layers: list[PackedFFN], args: argparse.Namespace) -> None:
    """Change one size of the tiles at a time and keep what is faster by more than 2%; prints what it ends with."""
    cuts, ratio = no_cuts(planted.packed.d_ff), args.ratios[0]
    predictor = build_predictor(planted.packed, cuts, planted.inputs(256, ratio, seed=11))
    for batch, tiles in ((1, ONE_TOKEN), (8, MORE_TOKENS)):
        x = planted.inputs(batch, ratio, seed=13).to(DEVICE, layers[0].gate.dtype)

        def cost(tiles: Tiles, x: torch.Tensor = x) -> float:
            # every way at once: predicted, exact and dense share the tiles
            total = 0.0
            for which in (None, predictor):
                blocks = [TritonFFN(layer, cuts, which, one=tiles, more=tiles) for layer in layers]
                for calls in ([block.sparse for block in blocks], [block.dense for block in blocks]):
                    replay = captured(Contestant(name="", calls=calls, blocks=blocks), x)
                    total += statistics.median(elapsed_ms(replay) for _ in range(args.rounds)) / len(layers)
            return total

        best = cost(tiles)
        for field in dataclasses.fields(Tiles):
            for factor in (0.5, 2.0):
                size = int(getattr(tiles, field.name) * factor)
                try:
                    changed = dataclasses.replace(tiles, **{field.name: size})
                    if not _allowed(changed, batch):
                        continue
                    found = cost(changed)
                except Exception as error:  # none at all, or too large for shared memory: no candidate
                    print(f"batch {batch}: {field.name}={size}: {type(error).__name__}")
                    continue
                print(f"batch {batch}: {field.name}={size}: {found:.4f} ms, so far {best:.4f}", flush=True)
                if found < 0.98 * best:
                    best, tiles = found, changed
        print(f"batch {batch}: {tiles}")


def _allowed(tiles: Tiles, batch: int) -> bool:
    """Whether they are worth a try: tensor cores take 16 rows, and more than 6 stages fit nowhere."""
    rows = min(tiles.gate_rows, tiles.hidden_rows, tiles.down_rows)
    return tiles.stages <= 6 and (batch == 1 or rows >= 16)


def show(rows: list[dict[str, Any]]) -> None:
    first = rows[0]
    print(f"\n{first['shape']}, {first['ratio']:.1%} active, batch {first['batch']}")
    print(
        "path               ms/FFN  +-      GB/s  of peak  x compiled  x best dense  ceiling  share  recall"
    )
    for row in rows:
        recall = "" if row["recall"] is None else f"{row['recall']:.4f}"
        print(
            f"{row['path']:18} {row['ms_per_ffn']:.4f} {row['spread_ms']:.4f} {row['bytes_per_sec'] / 1e9:6.0f}"
            f" {row['bandwidth_share']:7.0%} {row['speedup_over_compiled']:10.2f}"
            f" {row['speedup_over_best_dense']:13.2f} {row['ceiling']:9.2f} {row['ceiling_share']:6.0%}  {recall}"
        )


def _spread(times: list[float]) -> float:
    low, _, high = statistics.quantiles(times, n=4)
    return (high - low) / 2


def _l2_bytes() -> int:
    return torch.cuda.get_device_properties(DEVICE).L2_cache_size


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument(
        "--shapes", nargs="+", choices=sorted(SHAPES), default=list(SHAPES), help="default: both"
    )
    parser.add_argument(
        "--ratios",
        nargs="+",
        type=float,
        default=[0.065, 0.02, 0.2, 0.5, 1.0],
        help="active shares in (0, 1]",
    )
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4, 8], help="tokens, 1 to 8")
    parser.add_argument("--dtype", choices=["bfloat16", "float16"], default="bfloat16")
    parser.add_argument("--rounds", type=int, default=50, help="rounds that count (default: 50)")
    parser.add_argument("--warmup", type=int, default=5, help="rounds before (default: 5)")
    parser.add_argument("--tune", action="store_true", help="try other tiles at the first ratio")
    return parser.parse_args()


if __name__ == "__main__":
    main()
