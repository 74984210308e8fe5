"""`sparsing report`: writes one self-contained HTML file from the saved results of earlier runs."""

from __future__ import annotations

import argparse
from pathlib import Path

EPILOG = """examples:
  sparsing report outputs/my-checkpoint
  sparsing report outputs/relu/evaluate
  sparsing report outputs/relu outputs/silu law/ -o report.html --title "ReLU against SiLU"
"""


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "report",
        help="write one interactive HTML file from saved results",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folder or .json file written by measure, compare, demo, fit, neurons or evaluate",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("report.html"),
        metavar="FILE",
        help="file to write (default: report.html)",
    )
    parser.add_argument("--title", help="heading of the page (default: the model's name)")
    return parser


def run(args: argparse.Namespace) -> int:
    from sparsing.report.document import build_document
    from sparsing.report.page import write_report
    from sparsing.report.saved_results import read_runs

    path = write_report(build_document(read_runs(args.runs), title=args.title), args.output)
    print(f"open {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0
