"""`sparsing thresholds`: shows thresholds, or converts between JSON and the line of the code of Sparsing Law."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from sparsing.cli import _common as common

if TYPE_CHECKING:
    from sparsing.rules.thresholds import Thresholds

EPILOG = """examples:
  sparsing thresholds outputs/my-model/cett-ppl-1
  sparsing thresholds outputs/my-model/cett-ppl-1/thresholds.json --to line > thresholds.txt
"""


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "thresholds",
        help="show thresholds, or convert between JSON and the thresholds= line",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "file", help="thresholds.json or the folder of a run, or a text file with thresholds=t_0,t_1,..."
    )
    parser.add_argument(
        "--to",
        choices=("line", "json"),
        help="print as the line thresholds=... or as JSON (default: a table)",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE.json", help="also save as JSON (default: print only)"
    )
    return parser


def run(args: argparse.Namespace) -> int:
    from sparsing.rules.thresholds import read_thresholds

    thresholds = read_thresholds(args.file)
    if args.output:
        thresholds.save(args.output)
    if args.to == "line":
        print(thresholds.to_line())
    elif args.to == "json":
        common.print_json(thresholds)
    else:
        _print(thresholds, args.file)
    return 0


def _print(thresholds: Thresholds, file: str) -> None:
    is_threshold = thresholds.selection.is_threshold
    what = (
        f"active where {thresholds.on} > threshold"
        if is_threshold
        else f"{thresholds.select} by {thresholds.on}"
    )
    level = "" if math.isnan(thresholds.level) else f" at level {thresholds.level:.5g}"
    common.print_table(
        f"{thresholds.rule}{level}: {what}",
        ["site", "threshold" if is_threshold else "number"],
        [[name, f"{value:.6e}"] for name, value in thresholds.values.items()],
    )
    if thresholds.cut_condition:
        print("in your own module (docs/use-thresholds.md):")
        print("  from sparsing.rules.thresholds import read_thresholds")
        print(f"  cuts = read_thresholds({file!r}).cuts(model)  # a tensor per layer")
        print(f"  a neuron is active where {thresholds.cut_condition}")
