"""`sparsing track`: measures the activation ratio of the checkpoints of a training run, all at one CETT."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sparsing.cli import _common as common

if TYPE_CHECKING:
    from sparsing.training.track_result import Track

EPILOG = """examples:
  sparsing track runs/nano-relu --text heldout.txt
  sparsing track output_dir --text book.txt --tokens-per-step 65536 --ppl 5 -o tracks/mine

Then:  sparsing fit outputs/track-runs--nano-relu/points.csv
"""


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "track",
        help="activation ratio along the checkpoints of a training run",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", help="folder with checkpoint-<step> folders in it")
    group = parser.add_argument_group("what to measure")
    group.add_argument(
        "--ppl",
        type=common.percentage,
        default=1.0,
        metavar="P",
        help="mean rise of the perplexity of the last checkpoints, percent (default: 1)",
    )
    group.add_argument(
        "--last",
        type=int,
        default=5,
        metavar="N",
        help="checkpoints, from the end, on which the one CETT is found (default: 5)",
    )
    group.add_argument(
        "--tokens-per-step",
        type=int,
        metavar="N",
        help="training tokens of a step, if the checkpoints store only their step (default: from the checkpoints)",
    )
    common.add_corpus_arguments(parser)
    common.add_model_arguments(parser)
    common.add_run_arguments(parser, folder="outputs/track-<run>")
    return parser


def run(args: argparse.Namespace) -> int:
    common.check_text(args)
    from sparsing.measuring.run_folder import default_folder
    from sparsing.training.tracking import find_checkpoints, track

    checkpoints = find_checkpoints(args.run_dir)
    folder = args.output or _beside(default_folder(args.run_dir))
    result = track(
        checkpoints,
        lambda loaded: common.read_text(args, loaded),
        folder,
        ppl_ratio=1 + args.ppl / 100,
        last=args.last,
        tokens_per_step=args.tokens_per_step,
        batch_size=args.batch_size,
        load=lambda name: common.load_to_measure(args, name),
        progress=common.make_progress(args),
    )
    if not args.no_figures:
        _draw(result, folder)
    if args.json:
        common.print_json(result)
    else:
        _print(result, folder)
    return 0


def _beside(folder: Path) -> Path:
    """`outputs/track-<run>`, because `sparsing measure` writes into `outputs/<run>`."""
    return folder.with_name(f"track-{folder.name}")


def _draw(result: Track, folder: Path) -> None:
    from sparsing.measuring.measurement import Measurement
    from sparsing.report.charts.training_charts import training_picture
    from sparsing.report.static import save_picture

    measured = [Measurement.load(folder / point.name) for point in result.points]
    subtitle = f"one CETT, {result.level:.4g}, found on the last {len(result.joint)} checkpoints"
    save_picture(training_picture({result.name: measured}, subtitle=subtitle), folder, "along-training")


def _print(result: Track, folder: Path) -> None:
    where = result.provenance
    common.print_table(
        f"{result.name}: {where.num_tokens:,} tokens of {where.corpus}; CETT {result.level:.4g}, found on the last"
        f" {len(result.joint)} checkpoints (mean ppl ratio {result.search.ppl_ratio:.5f})",
        ["checkpoint", "tokens", "activation ratio [95%]", "dead", "loss", "perplexity", "ppl ratio"],
        [
            [
                point.name,
                f"{point.tokens:,}",
                _with_interval(point.activation_ratio, point.activation_ratio_interval),
                f"{point.dead_neuron_ratio:.2%}",
                f"{point.loss:.4f}",
                f"{point.ppl_dense:.3f}",
                f"{point.ppl_ratio:.5f}",
            ]
            for point in result.points
        ],
    )
    if not result.search.converged:
        print(
            "the mean ppl ratio differs from the target by more than 1e-4; more text makes the search finer"
        )
    print(f"results: {folder}; fit a law with: sparsing fit {folder / 'points.csv'}")


def _with_interval(ratio: float, interval: tuple[float, float] | None) -> str:
    spread = "" if interval is None else f" [{interval[0] * 100:.2f}, {interval[1] * 100:.2f}]"
    return f"{ratio:.2%}{spread}"
