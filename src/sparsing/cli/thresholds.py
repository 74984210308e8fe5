"""`sparsing thresholds`: shows thresholds, or converts between JSON and the reference's line of text."""

from __future__ import annotations

import argparse
from pathlib import Path

from sparsing.cli import _common as common

EPILOG = """examples:
  sparsing thresholds outputs/my-model/cett-ppl-1/thresholds.json
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
    parser.add_argument("file", help="thresholds.json of a run, or a text file with thresholds=t_0,t_1,...")
    parser.add_argument(
        "--to", choices=("line", "json"), help="print as the reference's line or as JSON (default: a table)"
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
        common.print_table(
            f"{thresholds.rule} at {thresholds.level:.5g}: {thresholds.select} on {thresholds.on}",
            ["layer", "value"],
            [[name, f"{value:.6e}"] for name, value in thresholds.values.items()],
        )
    return 0
