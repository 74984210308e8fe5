"""`sparsing bench`: how fast blocks or models decode here, dense engines against the sparse kernels, in one run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsing.cli import _common as common

if TYPE_CHECKING:
    from sparsing.bench.block_result import FFNBench
    from sparsing.bench.model_result import WholeBench
    from sparsing.report.measurement_tables import Rows

DESCRIPTION = """\
Times one feed-forward block of a shape, or with --whole all of a model in generate(): torch eager, torch.compile,
llama.cpp (pip install 'sparsing[bench]') and the own dense kernel against the sparse ones, in turns in one run.
Beside every time stand the bytes moved, the share of this machine's measured bandwidth, and the speed-up that the
bytes allow. Weights of a shape are planted: random, with the wanted share of ReLU neurons active.
"""
EPILOG = """examples:
  sparsing bench --shape 0.8B --ratio 0.065 0.4 --batch 1 --dtype float32
  sparsing bench --shape 0.8B --whole --ratio 0.065 --dtype bfloat16
  sparsing bench --model ./my-checkpoint --thresholds thresholds.json --text book.txt
"""


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "bench",
        help="time dense and sparse decoding of a shape or a model on this machine",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    group = parser.add_argument_group("what")
    choice = group.add_mutually_exclusive_group()
    choice.add_argument(
        "--shape",
        nargs="+",
        default=["0.8B"],
        help="0.1B to 2.4B of the paper, Llama-3.2-1B, Llama-3-8B (default: 0.8B)",
    )
    choice.add_argument("--model", help="folder of a checkpoint or name on the hub; needs --thresholds")
    group.add_argument(
        "--whole", action="store_true", help="the whole model of a shape in generate(), batch 1"
    )
    group.add_argument("--thresholds", metavar="FILE", help="of --model, as `sparsing measure` has written")
    group.add_argument(
        "--text", metavar="FILE", help="what --model predicts on and writes (default: random tokens)"
    )
    group.add_argument(
        "--ratio",
        type=float,
        nargs="+",
        metavar="R",
        help="planted activation ratios in (0, 1] (default: 0.02 to 1; whole models: 0.065 0.4)",
    )
    group.add_argument(
        "--batch", type=int, nargs="+", metavar="N", help="tokens at once, 1 to 8, of blocks (default: 1)"
    )
    group.add_argument(
        "--dtype",
        nargs="+",
        metavar="D",
        help="float32, bfloat16, and int8 for blocks (default: float32; --model: the checkpoint's own)",
    )
    group = parser.add_argument_group("how")
    group.add_argument(
        "--bits", type=int, nargs="+", metavar="B", help="of the predictors (default: 4 8; whole models: 4)"
    )
    group.add_argument(
        "--recall", type=float, default=0.995, help="that predictors are made for, a share (default: 0.995)"
    )
    group.add_argument("--rounds", type=int, metavar="N", help="(default: 15; whole models: 3)")
    group.add_argument("--threads", type=int, default=0, metavar="N", help="(default: as many as torch uses)")
    group.add_argument(
        "--prompt-tokens", type=int, default=64, metavar="N", help="of whole models (default: 64)"
    )
    group.add_argument(
        "--new-tokens", type=int, default=24, metavar="N", help="per round, of whole models (default: 24)"
    )
    group.add_argument(
        "--engines",
        nargs="*",
        choices=("eager", "compile", "llama.cpp"),
        default=["eager", "compile", "llama.cpp"],
        help="rivals beside the own dense kernel (default: all; whole models: llama.cpp, and Hugging Face always)",
    )
    group = parser.add_argument_group("run")
    group.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("outputs/bench"),
        metavar="DIR",
        help="(default: outputs/bench)",
    )
    group.add_argument("--json", action="store_true", help="one JSON document on stdout in place of tables")
    group.add_argument("--no-figures", action="store_true", help="write no pictures (default: PNG and SVG)")
    group.add_argument("--quiet", action="store_true", help="no progress bar (default: on a terminal)")
    return parser


def run(args: argparse.Namespace) -> int:
    from sparsing.measuring.run_folder import check_writable

    check_writable(args.output)
    if args.model or args.whole:
        whole = _model(args) if args.model else _whole(args)
        path = whole.save(args.output / "whole.json")
        _show(args, whole, path)
        return 0
    from sparsing.bench.block_bench import bench_ffn

    bench = bench_ffn(_shapes(args), _ffn_plan(args), progress=common.make_progress(args))
    path = bench.save(args.output / "ffn.json")
    if not args.no_figures:
        _draw(bench, args.output)
    _show(args, bench, path)
    return 0


def _ffn_plan(args: argparse.Namespace):
    from sparsing.bench.block_bench import FFNPlan

    given: dict[str, Any] = {
        "ratios": args.ratio,
        "batches": args.batch or [1],
        "dtypes": args.dtype or ["float32"],
        "bits": args.bits,
        "engines": args.engines,
    }
    return FFNPlan(**_tuples(given), recall=args.recall, threads=args.threads, **_rounds(args))


def _whole_plan(args: argparse.Namespace):
    from sparsing.bench.model_bench import WholePlan

    given: dict[str, Any] = {"ratios": args.ratio, "dtypes": args.dtype or ["float32"], "bits": args.bits}
    return WholePlan(
        **_tuples(given),
        recall=args.recall,
        threads=args.threads,
        prompt_tokens=args.prompt_tokens,
        new_tokens=args.new_tokens,
        with_llama_cpp="llama.cpp" in args.engines,
        **_rounds(args),
    )


def _tuples(given: dict[str, Any]) -> dict[str, Any]:
    """What was given, as plans take it."""
    return {name: tuple(value) for name, value in given.items() if value is not None}


def _rounds(args: argparse.Namespace) -> dict[str, Any]:
    return {} if args.rounds is None else {"rounds": args.rounds}


def _shapes(args: argparse.Namespace) -> list:
    from sparsing.bench.shapes import SHAPES

    return [SHAPES[name] for name in args.shape]


def _whole(args: argparse.Namespace) -> WholeBench:
    from sparsing.bench.model_bench import bench_planted

    return bench_planted(_shapes(args), _whole_plan(args), progress=common.make_progress(args))


def _model(args: argparse.Namespace) -> WholeBench:
    from sparsing.bench.model_bench import bench_loaded
    from sparsing.errors import InputError
    from sparsing.models.loading import load_model
    from sparsing.rules.thresholds import read_thresholds
    from sparsing.text.corpus import load_corpus

    if args.thresholds is None:
        raise InputError("--model needs --thresholds FILE; `sparsing measure` writes one")
    if args.dtype and len(args.dtype) > 1:
        raise InputError(f"a model is loaded in one dtype, got {' '.join(args.dtype)}; run once for each")
    thresholds, plan = read_thresholds(args.thresholds), _whole_plan(args)
    loaded = load_model(args.model, dtype=args.dtype[0] if args.dtype else None, device="cpu")
    text = None
    if args.text:
        count = 2 * plan.text_tokens  # some may be ends of documents, which are left out
        text = load_corpus(args.text, loaded.tokenizer, window=count, max_tokens=count).ids.tolist()
    return bench_loaded(loaded, thresholds, plan, text=text, progress=common.make_progress(args))


def _draw(bench: FFNBench, folder: Path) -> None:
    from sparsing.report.decode_figures import speedup_curves
    from sparsing.report.style import save

    for batch in sorted({line.batch for line in bench.lines}):
        save(speedup_curves(bench, batch), folder, f"speedup-batch-{batch}")


def _show(args: argparse.Namespace, bench: FFNBench | WholeBench, path: Path) -> None:
    from sparsing.bench.block_result import FFNBench
    from sparsing.report import decode_tables

    if args.json:
        common.print_json(bench)
        return
    tables: dict[str, Rows] = (
        decode_tables.ffn_tables(bench) if isinstance(bench, FFNBench) else decode_tables.whole_tables(bench)
    )
    for title, (header, rows) in tables.items():
        common.print_table(title, header, rows)
    print("\n".join(decode_tables.notes(bench)))
    print(f"written to {path}")
