"""`sparsing demo`: the main job on two small built-in models, no download, ends with a page to open."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sparsing.cli import _common as common

if TYPE_CHECKING:
    from sparsing.measuring.frontier import RuleComparison
    from sparsing.measuring.measurement import Measurement
    from sparsing.measuring.subject import Subject

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
    from sparsing.measuring.run_folder import check_writable
    from sparsing.report import measurement_tables as tables

    folder = check_writable(args.output)
    series, comparisons, subjects, studies = {}, {}, {}, []
    for stage in run_demo(folder, max_tokens=args.max_tokens, progress=common.make_progress(args)):
        if stage.comparison:
            comparisons[stage.activation] = stage.comparison
        elif stage.study:
            studies.append(stage.study)
        else:
            series.setdefault(stage.activation, []).append(stage.measurement)
            subjects[stage.activation] = stage.subject
    _draw(folder, series, comparisons, subjects)
    page = _write_page(folder, series, comparisons, studies)
    common.print_table("The built-in models along training", *tables.training(series))
    for activation, comparison in comparisons.items():
        common.print_table(
            f"{activation}: activation ratio at a cost in perplexity", *tables.frontier(comparison)
        )
    print(f"open {page}")
    return 0


def _draw(
    folder: Path,
    series: dict[str, list[Measurement]],
    comparisons: dict[str, RuleComparison],
    subjects: dict[str, Subject],
) -> None:
    """The pictures, as files for papers and slides."""
    from sparsing.report.compare_figures import along_training, ppl_against_ratio
    from sparsing.report.figures import save, save_all

    save(along_training(series), folder, "along_training")
    for activation, measurements in series.items():
        save_all(measurements[-1], folder / activation / "last", subjects[activation].curves)
        save(ppl_against_ratio(comparisons[activation].points), folder / activation, "ppl_against_ratio")


def _write_page(
    folder: Path,
    series: dict[str, list[Measurement]],
    comparisons: dict[str, RuleComparison],
    studies: list[Path],
) -> Path:
    from sparsing.report.document import build_document
    from sparsing.report.page import write_report
    from sparsing.report.saved_results import Runs, read_runs

    results = [result for measurements in series.values() for result in measurements]
    neurons = read_runs(studies).studies
    runs = Runs(measurements=results, comparisons=list(comparisons.values()), studies=neurons)
    title = "Activation sparsity: the built-in demo"
    return write_report(build_document(runs, title=title), folder / "index.html")
