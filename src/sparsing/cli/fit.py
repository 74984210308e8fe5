"""`sparsing fit`: fit a law to activation ratios along training, with intervals, rival forms and a verdict."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sparsing.cli import _common as common

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sparsing.laws.form_comparison import FormComparison
    from sparsing.laws.joint_fit import JointFit
    from sparsing.laws.lawfit import LawFit
    from sparsing.laws.points import Points

FORM_NAMES = "relu, silu, decay, sigmoid, log_line, power, logarithm; over width and depth: bottleneck"
"""The names of all laws. Written out, because importing the laws would slow down `sparsing --help`."""

EPILOG = """examples:
  sparsing fit points.csv --form auto -o law
  sparsing fit run/step-*/measurement.json --form relu --drop 2 -o law

A CSV has the column activation_ratio (in [0, 1]) and one of tokens, tokens_billion, width_depth, or d_model
with n_layers. A column series splits one file into several series.
"""


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "fit",
        help="fit a law to activation ratios along training, with intervals",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "points",
        nargs="+",
        help="CSV file, JSON file of points, measurement.json or the folder that holds it",
    )
    parser.add_argument(
        "--form",
        default="auto",
        metavar="NAME",
        help=f"the law that is assumed to be right ({FORM_NAMES}), or auto for the law with the lowest AICc; under auto"
        " the verdict and the forecasts cover every law that the points do not refute (default: auto)",
    )
    parser.add_argument(
        "--drop", type=int, metavar="N", help="leave out the first N points (default: chosen by BIC)"
    )
    parser.add_argument(
        "--level", type=float, default=0.9, help="confidence level of the intervals (default: 0.9)"
    )
    parser.add_argument(
        "--resamples", type=int, default=200, help="refits of the block bootstrap (default: 200)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (default: 0)")
    parser.add_argument(
        "--tokens-per-step",
        type=float,
        help="training tokens per step, for measurements that record only their step",
    )
    parser.add_argument(
        "--shared",
        metavar="NAMES",
        help="test whether all series share these coefficients, comma separated, e.g. A0; needs --form NAME",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="DIR",
        help="folder for the figures (PNG, SVG) and <series>.json; a series is named by its column or its file",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    return parser


def run(args: argparse.Namespace) -> int:
    from rich.console import Console

    from sparsing.errors import InputError
    from sparsing.laws import read_points
    from sparsing.laws.joint_fit import fit_shared

    if args.shared and args.form == "auto":
        raise InputError("--shared compares coefficients of one law; name it with --form, e.g. --form relu")
    progress = Console(stderr=True)
    fits: list[LawFit] = []
    comparisons: list[FormComparison | None] = []
    for points in read_points(args.points, tokens_per_step=args.tokens_per_step):
        with progress.status(common.plain(f"fitting {points.name}")):
            fit, comparison = _fit(points, args)
        fits.append(fit)
        comparisons.append(comparison)
    joint = None
    if args.shared:
        with progress.status("joint fit"):
            joint = fit_shared(fits, [name.strip() for name in args.shared.split(",")])
    if args.output:
        with progress.status("figures"):
            _save(args.output, fits, comparisons, joint)
    if args.json:
        common.print_json({"fits": fits} | ({"joint": joint} if joint else {}))
        return 0
    for fit, comparison in zip(fits, comparisons, strict=True):
        _print(fit, comparison)
    if joint:
        print(f"joint fit: {joint.verdict}")
    if args.output:
        written = [str(args.output / f"{common.file_name(fit.name)}.json") for fit in fits]
        print(f"written, with figures: {' '.join(written)}")
        print(f"forecast with: sparsing forecast {written[0]} --tokens 1e12")
    return 0


def _fit(points: Points, args: argparse.Namespace) -> tuple[LawFit, FormComparison | None]:
    """The fit of the chosen form, and the comparison that chose it if the form is `auto`."""
    from sparsing.laws import compare_forms, fit, fit_best

    options = {"num_resamples": args.resamples, "seed": args.seed}
    if args.form != "auto":
        return fit(points, args.form, drop=args.drop, level=args.level, **options), None
    comparison = compare_forms(points, drop=args.drop, level=args.level)
    return fit_best(points, comparison, **options), comparison


def _save(
    folder: Path,
    fits: Sequence[LawFit],
    comparisons: Sequence[FormComparison | None],
    joint: JointFit | None,
) -> None:
    from sparsing.report.charts.law_charts import law_picture, laws_picture
    from sparsing.report.static import save_picture

    for fit, comparison in zip(fits, comparisons, strict=True):
        fit.save(folder / f"{common.file_name(fit.name)}.json")
        save_picture(law_picture(fit), folder, common.file_name(fit.name))
        if comparison:
            comparison.save(folder / f"{common.file_name(fit.name)}-forms.json")
    if len(fits) > 1:
        save_picture(laws_picture(fits), folder, "all-series")
    if joint:
        joint.save(folder / "joint.json")


def _print(fit: LawFit, comparison: FormComparison | None) -> None:
    from sparsing.laws import law_tables as tables

    print(f"\n{fit.name}: {fit.law.label}, {fit.equation}")
    if comparison:
        common.print_table("forms on the same points", tables.RANK_COLUMNS, tables.rank_rows(comparison))
    given = " if this form is right" if comparison else ""
    title = f"coefficients, {fit.level:.0%} intervals{given}"
    common.print_table(title, tables.COEFFICIENT_COLUMNS, tables.coefficient_rows(fit))
    common.print_table("fit", tables.SUMMARY_COLUMNS, tables.summary_rows(fit), prose=True)
    print(f"verdict: {fit.verdict}")
