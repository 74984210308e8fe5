"""The command `sparsing bench`: times dense and sparse decoding of a block or a model on this machine.

It parses the arguments into a plan, calls `sparsing.bench`, and prints, saves and draws the result.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsing.base.dtype_names import full_dtype_name
from sparsing.cli import _common as common
from sparsing.cli import _gguf as gguf

if TYPE_CHECKING:
    from sparsing.bench.block_result import BlockBenchmark
    from sparsing.bench.model_bench import ModelPlan
    from sparsing.bench.model_result import ModelBenchmark
    from sparsing.bench.shapes import DecodeShape

DESCRIPTION = """\
Times one feed-forward block of a model shape, or with --whole a whole model in generate(). Dense engines (torch eager,
torch.compile, llama.cpp from the extra `bench`, and our own dense kernel) are compared with the sparse kernels, in turn
in one run. The table also shows the bytes read, the share of this machine's memory bandwidth, and the
speed-up that the bytes allow. A shape has planted weights: random, with the requested share of ReLU neurons active.
"""
EPILOG = """examples:
  sparsing bench --shape 0.8B --ratio 0.065 0.4 --batch 1 --dtype float32
  sparsing bench --shape 0.8B --whole --ratio 0.065 --dtype bfloat16
  sparsing bench --model ./my-checkpoint --thresholds thresholds.json --text book.txt
  sparsing bench --model model.gguf --thresholds thresholds.json
"""


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "bench",
        help="time dense and sparse decoding of a shape or a model on this machine",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    group = parser.add_argument_group("what is timed")
    choice = group.add_mutually_exclusive_group()
    shapes = (
        "names of shapes: 0.1B to 2.4B of the paper Sparsing Law, Llama-3.2-1B, Llama-3-8B (default: 0.8B)"
    )
    choice.add_argument("--shape", nargs="+", default=["0.8B"], help=shapes)
    choice.add_argument(
        "--model", help="a checkpoint folder, a name on the hub or a GGUF file; needs --thresholds"
    )
    whole = "time the whole model of each shape in generate(), batch 1 (default: one block)"
    group.add_argument("--whole", action="store_true", help=whole)
    group.add_argument("--thresholds", metavar="FILE", help="thresholds.json of --model, or its folder")
    text = "text that --model is calibrated on and decodes (default: random tokens)"
    group.add_argument("--text", metavar="FILE", help=text)
    ratio = "activation ratios of planted weights, in (0, 1] (default: 0.02 to 1; whole models: 0.065 0.4)"
    group.add_argument("--ratio", type=float, nargs="+", metavar="R", help=ratio)
    batch = "tokens decoded at once by a block, 1 to 8 (default: 1)"
    group.add_argument("--batch", type=int, nargs="+", metavar="N", help=batch)
    dtype = "float32, bfloat16, and int8 for blocks (default: float32; --model: dtype of the checkpoint)"
    group.add_argument("--dtype", nargs="+", type=full_dtype_name, metavar="D", help=dtype)
    group = parser.add_argument_group("how it is timed")
    bits = "bits of the predictors, 4 or 8 (default: 4 8; whole models: 4)"
    group.add_argument("--bits", type=int, nargs="+", metavar="B", help=bits)
    recall = "recall that predictors are calibrated for, in (0, 1] (default: 0.995)"
    group.add_argument("--recall", type=float, default=0.995, help=recall)
    group.add_argument("--rounds", type=int, metavar="N", help="timed rounds (default: 15; whole models: 3)")
    prompt = "tokens of the prompt of a whole model (default: 64)"
    group.add_argument("--prompt-tokens", type=int, default=64, metavar="N", help=prompt)
    new = "tokens that a whole model decodes per round (default: 24)"
    group.add_argument("--new-tokens", type=int, default=24, metavar="N", help=new)
    names = ["eager", "compile", "llama.cpp"]
    engines = (
        "dense engines besides our own kernel (default: all; whole models: llama.cpp and always Hugging Face)"
    )
    group.add_argument("--engines", nargs="*", choices=names, default=names, help=engines)
    group = parser.add_argument_group("output")
    output = "folder of the results (default: outputs/bench/<shapes>, or outputs/<owner>--<model>/bench)"
    group.add_argument("-o", "--output", type=Path, metavar="DIR", help=output)
    group.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    group.add_argument("--no-figures", action="store_true", help="draw no figures (default: PNG and SVG)")
    group.add_argument("--quiet", action="store_true", help="show no progress bar")
    return parser


def run(args: argparse.Namespace) -> int:
    if args.model and gguf.is_gguf(args.model):
        return gguf.run_gguf_bench(args)
    _check_options(args)
    # before minutes of timing, not after
    folder = common.open_run_folder(args, args.output or _default_folder(args))
    if args.model or args.whole:
        bench = _bench_checkpoint(args, folder) if args.model else _bench_planted_models(args)
        path = bench.save(folder / "whole.json")
    else:
        bench = _bench_blocks(args)
        path = bench.save(folder / "ffn.json")
        if not args.no_figures:
            _draw(bench, folder)
    if args.json:
        common.print_json(bench)
    else:
        _print_tables(bench)
        print(f"written to {path}")
    return 0


def _check_options(args: argparse.Namespace) -> None:
    """Raises InputError for options that would be ignored, and for a text that cannot exist."""
    from sparsing.errors import InputError
    from sparsing.text.reading import check_options

    if args.text:
        check_options(args.text)
    if args.model:
        common.refuse_without_effect(args, ["ratio"], "with --model, whose thresholds decide the ratio")
    else:
        common.refuse_without_effect(args, ["thresholds", "text"], "without --model")
    if args.model or args.whole:
        common.refuse_without_effect(args, ["batch"], "on a whole model, which decodes one token at a time")
        if args.engines != args.parser.get_default("engines") and (
            extra := set(args.engines) - {"llama.cpp"}
        ):
            raise InputError(
                f"--engines {' '.join(sorted(extra))} would have no effect on a whole model, which is compared with"
                " Hugging Face and llama.cpp; give --engines llama.cpp, or --engines alone"
            )
    else:
        common.refuse_without_effect(args, ["prompt_tokens", "new_tokens"], "on a block; add --whole")


def _default_folder(args: argparse.Namespace) -> Path:
    from sparsing.measuring.run_folder import default_folder

    if args.model:
        return default_folder(args.model) / "bench"
    return Path("outputs/bench") / "+".join(dict.fromkeys(args.shape))


def _bench_blocks(args: argparse.Namespace) -> BlockBenchmark:
    from sparsing.bench.block_bench import BlockPlan, bench_blocks

    batches, engines = tuple(args.batch or [1]), tuple(args.engines)
    plan = BlockPlan(**_common_options(args), batches=batches, engines=engines)
    return bench_blocks(_shapes(args), plan, progress=common.make_progress(args))


def _bench_planted_models(args: argparse.Namespace) -> ModelBenchmark:
    from sparsing.bench.model_bench import bench_planted_models

    return bench_planted_models(_shapes(args), _model_plan(args), progress=common.make_progress(args))


def _bench_checkpoint(args: argparse.Namespace, folder: Path) -> ModelBenchmark:
    from sparsing.bench.model_bench import bench_loaded_model
    from sparsing.errors import InputError
    from sparsing.measuring.run_folder import claim_folder
    from sparsing.rules.thresholds import read_thresholds
    from sparsing.text.corpus import load_corpus

    if args.thresholds is None:
        raise InputError("--model needs --thresholds FILE; `sparsing measure` writes the file")
    if args.dtype and len(args.dtype) > 1:
        raise InputError(f"a model is loaded in one dtype, got {' '.join(args.dtype)}; run once for each")
    thresholds, plan = read_thresholds(args.thresholds), _model_plan(args)
    # the kernels of the benchmark run on the CPU only
    options = {"dtype": args.dtype[0] if args.dtype else None, "device": "cpu"}
    options |= {"revision": None, "trust_remote_code": False, "tokenizer": None, "adapter": None}
    loaded = common.load_to_decode(argparse.Namespace(**options), args.model)
    claim_folder(folder, loaded)
    text = None
    if args.text:
        count = 2 * plan.text_tokens  # twice what is needed, since end-of-text tokens are left out later
        text = load_corpus(args.text, loaded.tokenizer, window=count, max_tokens=count).ids.tolist()
    return bench_loaded_model(loaded, thresholds, plan, text=text, progress=common.make_progress(args))


def _shapes(args: argparse.Namespace) -> list[DecodeShape]:
    from sparsing.bench.shapes import SHAPES

    return [SHAPES[name] for name in args.shape]


def _model_plan(args: argparse.Namespace) -> ModelPlan:
    from sparsing.bench.model_bench import ModelPlan

    return ModelPlan(
        **_common_options(args),
        prompt_tokens=args.prompt_tokens,
        new_tokens=args.new_tokens,
        with_llama_cpp="llama.cpp" in args.engines,
    )


def _common_options(args: argparse.Namespace) -> dict[str, Any]:
    """Fields that both plans have. An option that was not given is left out, so that the plan's default applies."""
    lists = {"ratios": args.ratio, "dtypes": args.dtype or ["float32"], "bits": args.bits}
    options: dict[str, Any] = {name: tuple(values) for name, values in lists.items() if values is not None}
    if args.rounds is not None:
        options["rounds"] = args.rounds
    return {**options, "recall": args.recall, "threads": args.threads or 0}


def _draw(bench: BlockBenchmark, folder: Path) -> None:
    from sparsing.report.charts.decode_charts import speedup_picture
    from sparsing.report.static import save_picture

    for batch in sorted({line.batch for line in bench.lines}):
        save_picture(speedup_picture(bench, batch), folder, f"speedup-batch-{batch}")


def _print_tables(bench: BlockBenchmark | ModelBenchmark) -> None:
    from sparsing.bench.block_result import BlockBenchmark
    from sparsing.report import decode_tables

    is_block = isinstance(bench, BlockBenchmark)
    tables = decode_tables.ffn_tables(bench) if is_block else decode_tables.whole_tables(bench)
    for title, (header, rows) in tables.items():
        common.print_table(title, header, rows)
    print("\n".join(decode_tables.notes(bench)))
