"""`sparsing report`: writes one self-contained HTML file from the saved results of earlier runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
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
        help="folder or .json file written by measure, compare, demo, fit, neurons, evaluate, track or sweep",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("report.html"),
        metavar="FILE",
        help="file to write (default: report.html)",
    )
    parser.add_argument("--title", help="heading of the report (default: the model's name)")
    return parser


def run(args: argparse.Namespace) -> int:
    from sparsing.errors import InputError
    from sparsing.report.document import build_document
    from sparsing.report.page import write_report
    from sparsing.report.saved_results import read_runs

    try:
        runs = read_runs(args.runs)
    except InputError:
        _refuse_models(args.runs)
        raise
    path = write_report(build_document(runs, title=args.title), args.output)
    print(f"open {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0


def _refuse_models(runs: Sequence[str]) -> None:
    """Raises InputError if a model was given in place of its results, and names the folder of the results."""
    from sparsing.errors import InputError
    from sparsing.measuring.run_folder import default_folder

    for run in runs:
        if (Path(run) / "config.json").is_file() and (results := default_folder(run)).is_dir():
            raise InputError(f"{run!r} is a model; its results are in {str(results)!r}, so give that folder")
