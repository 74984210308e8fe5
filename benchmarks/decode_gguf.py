"""Times GGUF files on the CPU: llama.cpp, the package's own engine dense and sparse, on the same file and threads.

    python benchmarks/decode_gguf.py files           # write planted ReLU models of the 0.8B and 2.4B shapes (11 GB)
    python benchmarks/decode_gguf.py time            # time every file with 1 and 2 threads
    python benchmarks/decode_gguf.py time --shape 0.8B --threads 2
    python benchmarks/decode_gguf.py table           # the table of docs/decode.md, from the saved results
    python benchmarks/decode_gguf.py time --model model.gguf --thresholds thresholds.json

Every case is saved as soon as it is timed, and a case with a result of today is not timed again, so a run that was
interrupted continues. Run it with nothing else running.
"""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path

from sparsing.bench.gguf_bench import GgufPlan, bench_gguf
from sparsing.bench.gguf_result import GgufBenchmark
from sparsing.bench.planted_model import build_model, plant_model
from sparsing.bench.shapes import SHAPES
from sparsing.models.gguf_export import export_gguf
from sparsing.rules.thresholds import read_thresholds
from sparsing.sites.discovery import find_sites

ROOT = Path(__file__).parent
RESULTS, FILES = ROOT / "results", ROOT / ".cache" / "gguf"
TODAY = datetime.date.today().isoformat()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("files", "time", "table"))
    parser.add_argument("--shape", nargs="+", default=["0.8B", "2.4B"])
    parser.add_argument("--ratio", nargs="+", type=float, default=[0.065, 0.4])
    parser.add_argument("--type", nargs="+", default=["Q4_0", "Q8_0"])
    parser.add_argument("--threads", nargs="+", type=int, default=[2, 1])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--folder", type=Path, default=FILES)
    parser.add_argument("--model", type=Path, help="time this file in place of the planted models")
    parser.add_argument("--thresholds", type=Path, help="thresholds of --model")
    parser.add_argument(
        "--two-part-inputs", action="store_true", help="inputs of the own engine with 15 bits"
    )
    parser.add_argument("--label", help="last part of the names of results, e.g. for settings of the system")
    args = parser.parse_args()
    if args.part == "files":
        write_files(args)
    elif args.part == "time":
        time_files(args)
    else:
        print(table())


def write_files(args: argparse.Namespace) -> None:
    """Write every file that does not exist yet; a model is planted once for all types."""
    args.folder.mkdir(parents=True, exist_ok=True)
    for shape in args.shape:
        for ratio in args.ratio:
            wanted = [
                kind for kind in args.type if not planted_file(args.folder, shape, ratio, kind).exists()
            ]
            if not wanted:
                continue
            model = build_model(SHAPES[shape], "bfloat16", context=4096)
            plant_model(model, find_sites(model), ratio)
            for kind in wanted:
                path = planted_file(args.folder, shape, ratio, kind)
                export_gguf(model, path.with_suffix(".part"), weight_type=kind).rename(path)
                print(path, flush=True)
            del model


def planted_file(folder: Path, shape: str, ratio: float, kind: str) -> Path:
    """Path of a planted model."""
    return folder / f"{shape}-{ratio:g}-{kind}.gguf"


def time_files(args: argparse.Namespace) -> None:
    """Time every case without a result of today."""
    thresholds = read_thresholds(args.thresholds) if args.thresholds else None
    cases = [
        planted_file(args.folder, shape, ratio, kind)
        for shape in args.shape
        for ratio in args.ratio
        for kind in args.type
    ]
    for path in [args.model] if args.model else cases:
        for threads in args.threads:
            case = f"{path.stem}-{threads}t{'-two-part' * args.two_part_inputs}"
            case = f"{case}-{args.label}" if args.label else case
            target = RESULTS / f"decode_gguf-{case}-{TODAY}.json"
            if target.exists():
                continue
            plan = GgufPlan(
                rounds=args.rounds,
                new_tokens=args.new_tokens,
                threads=threads,
                two_part_inputs=args.two_part_inputs,
            )
            bench = bench_gguf(path, thresholds, plan)
            bench.save(target)
            print("\n".join(rows(bench)), bench.sentence, sep="\n", flush=True)


def table() -> str:
    """All saved results as a Markdown table."""
    head = "| file | threads | engine | tok/s | MB/token | of memory's | / llama.cpp | active |"
    saved = [GgufBenchmark.load(path) for path in sorted(RESULTS.glob("decode_gguf-*.json"))]
    lines = [head, "|---|---:|---|---:|---:|---:|---:|---:|"]
    return "\n".join(lines + [row for bench in saved for row in rows(bench)])


def rows(bench: GgufBenchmark) -> list[str]:
    """One row per engine."""
    return [
        f"| {bench.file.removesuffix('.gguf')} | {bench.threads} | {line.name} | {line.tok_per_sec:.1f} |"
        f" {line.bytes_per_token / 1e6:.0f} | {line.bandwidth_share:.0%} | {line.speedup:.2f} |"
        f" {bench.sparse.activation_ratio:.1%} |"
        for line in bench.lines
    ]


if __name__ == "__main__":
    main()
