"""`sparsing demo`: measures two small built-in models without a download and writes a report to open in a browser."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sparsing.cli import _common as common

if TYPE_CHECKING:
    from sparsing.demo.run import DemoModel
    from sparsing.measuring.measurement import Measurement

EPILOG = """examples:
  sparsing demo
  sparsing demo -o my-demo --max-tokens 50000
"""


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "demo",
        help="measure the two built-in models and write a report to open in a browser",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("demo-report"),
        metavar="DIR",
        help="folder for the results (default: demo-report)",
    )
    parser.add_argument(
        "--max-tokens",
        type=int,
        default=16_000,
        metavar="N",
        help="tokens of text to measure on (default: 16000)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars (default: on a terminal)")
    return parser


def run(args: argparse.Namespace) -> int:
    from sparsing.demo.run import run_demo
    from sparsing.report import measurement_tables as tables
    from sparsing.report.charts.training_charts import training_series, two_measures

    folder = common.open_run_folder(args, args.output)
    models = list(run_demo(folder, max_tokens=args.max_tokens, progress=common.make_progress(args)))
    _draw(folder, models)
    page = _write_page(folder, models)
    own = {model.activation: model.measurements for model in models}
    shared = {model.activation: model.at_one_cett for model in models}
    common.print_table("The built-in models along training", *tables.training(own, shared))
    print(two_measures(training_series(_measurements(models))))
    for model in models:
        common.print_table(
            f"{model.activation}: activation ratio at a cost in perplexity",
            *tables.frontier(model.comparison),
        )
        if note := tables.frontier_note(model.comparison):
            print(note)
    print(common.results_line(folder, page))
    return 0


def _measurements(models: list[DemoModel]) -> list[Measurement]:
    return [result for model in models for result in (*model.measurements, *model.at_one_cett)]


def _draw(folder: Path, models: list[DemoModel]) -> None:
    """Write the figures as files, for papers and slides."""
    from sparsing.report.charts.measurement_charts import measurement_pictures
    from sparsing.report.charts.rule_charts import comparison_picture
    from sparsing.report.charts.training_charts import training_picture, training_series
    from sparsing.report.static import save_picture, save_pictures

    save_picture(training_picture(training_series(_measurements(models))), folder, "along_training")
    for model in models:
        pictures = measurement_pictures(model.measurements[-1], model.subject.curves)
        save_pictures(pictures, folder / model.activation / "last")
        frontier = comparison_picture(model.comparison)
        save_picture(frontier, folder / model.activation, "ppl_against_ratio")


def _write_page(folder: Path, models: list[DemoModel]) -> Path:
    from sparsing.report.document import build_document
    from sparsing.report.page import write_report
    from sparsing.report.saved_results import Runs, read_runs

    runs = Runs(
        measurements=_measurements(models),
        comparisons=[model.comparison for model in models],
        studies=read_runs([model.study for model in models]).studies,
    )
    document = build_document(runs, title="Activation sparsity: the built-in demo")
    return write_report(document, folder / "index.html")
