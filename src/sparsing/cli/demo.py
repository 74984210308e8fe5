"""`sparsing demo`: the main job on two small built-in models, no download, ends with a page to open."""

from __future__ import annotations

import argparse
from pathlib import Path

from sparsing.cli import _common as common

EPILOG = """examples:
  sparsing demo
  sparsing demo -o my-demo --max-tokens 50000
"""


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "demo",
        help="measure the two built-in models, write a page to open",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("demo-report"), metavar="DIR", help="default: demo-report"
    )
    parser.add_argument(
        "--max-tokens", type=int, default=16_000, metavar="N", help="tokens of text (default: 16000)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars (default: on a terminal)")
    return parser


def run(args: argparse.Namespace) -> int:
    from sparsing.demo.run import run_demo
    from sparsing.report import tables
    from sparsing.report.demo_page import training_table, write_demo_page
    from sparsing.report.figures import save_all
    from sparsing.runs import check_writable

    folder = check_writable(args.output)
    series, comparisons, subjects = {}, {}, {}
    for stage in run_demo(folder, max_tokens=args.max_tokens, progress=common.make_progress(args)):
        if stage.comparison:
            comparisons[stage.activation] = stage.comparison
            continue
        series.setdefault(stage.activation, []).append(stage.measurement)
        subjects[stage.activation] = stage.subject
    for activation, measurements in series.items():
        save_all(measurements[-1], folder / activation / "last", subjects[activation].curves)
    page = write_demo_page(folder, series, comparisons)
    common.print_table("The built-in models along training", *training_table(series))
    for activation, comparison in comparisons.items():
        common.print_table(
            f"{activation}: activation ratio at a cost in perplexity", *tables.frontier(comparison)
        )
    print(f"open {page}")
    return 0
