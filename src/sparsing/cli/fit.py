"""`sparsing fit`: laws of the activation ratio, with intervals, rivals and a verdict."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from sparsing.laws.form_comparison import Comparison
    from sparsing.laws.lawfit import LawFit
    from sparsing.laws.points import Points

EPILOG = """examples:
  sparsing fit points.csv --form auto -o law
  sparsing fit run/step-*/measurement.json --form relu --drop 2 -o law

A CSV has the column activation_ratio (in [0, 1]) and one of tokens, tokens_billion, width_depth, or d_model
with n_layers; a column series makes several series of one file.
"""


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "fit",
        help="fit a law to activation ratios along training, with intervals",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("points", nargs="+", help="CSV, JSON of points, measurement.json or its folder")
    parser.add_argument(
        "--form", default="auto", help="name of a law, or auto: the one with the lowest AICc (default: auto)"
    )
    parser.add_argument(
        "--drop", type=int, metavar="N", help="leave out N first points (default: the data choose)"
    )
    parser.add_argument("--level", type=float, default=0.9, help="confidence of the intervals (default: 0.9)")
    parser.add_argument(
        "--resamples", type=int, default=200, help="refits of the block bootstrap (default: 200)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    parser.add_argument("--tokens-per-step", type=float, help="for measurements that know their step only")
    parser.add_argument(
        "--shared",
        metavar="NAMES",
        help="test whether all series share these coefficients, comma separated, e.g. A0; needs --form NAME",
    )
    parser.add_argument("-o", "--output", type=Path, help="folder for <series>.json and figures (PNG, SVG)")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout instead of tables")
    return parser


def run(args: argparse.Namespace) -> int:
    from rich.console import Console

    from sparsing.errors import InputError
    from sparsing.laws import read_points
    from sparsing.laws.joint_fit import share_test

    if args.shared and args.form == "auto":
        raise InputError("--shared compares coefficients of one law; name it with --form, e.g. --form relu")
    progress = Console(stderr=True)
    series = read_points(args.points, tokens_per_step=args.tokens_per_step)
    found: list[tuple[LawFit, Comparison | None]] = []
    for points in series:
        with progress.status(f"fitting {points.name}"):
            found.append(_fit(points, args))
    fits = [fit for fit, _ in found]
    joint = None
    if args.shared:
        with progress.status("joint fit"):
            joint = share_test(fits, [name.strip() for name in args.shared.split(",")])
    if args.output:
        with progress.status("figures"):
            _save(args.output, found, joint)
    if args.json:
        document = {"fits": [f.to_dict() for f in fits]} | ({"joint": joint.to_dict()} if joint else {})
        print(json.dumps(document, indent=1))
        return 0
    out = Console()
    for fit, comparison in found:
        _print(out, fit, comparison)
    if joint:
        out.print(f"[bold]joint fit:[/bold] {joint.verdict}", highlight=False)
    return 0


def _fit(points: Points, args: argparse.Namespace) -> tuple[LawFit, Comparison | None]:
    from sparsing.laws import compare, fit

    options = {"level": args.level, "num_resamples": args.resamples, "seed": args.seed}
    if args.form != "auto":
        return fit(points, args.form, drop=args.drop, **options), None
    comparison = compare(points, drop=args.drop, level=args.level)
    found = fit(points, comparison.best.form, drop=comparison.num_dropped, **options)
    return dataclasses.replace(found, drop_reason=comparison.drop_reason), comparison


def _save(folder: Path, found, joint) -> None:
    from sparsing.report.law_figures import law_figure, save_figure, series_figure

    for fit, comparison in found:
        fit.save(folder / f"{fit.name}.json")
        save_figure(law_figure(fit), folder / fit.name)
        if comparison:
            comparison.save(folder / f"{fit.name}-forms.json")
    if len(found) > 1:
        save_figure(series_figure([fit for fit, _ in found]), folder / "all-series")
    if joint:
        joint.save(folder / "joint.json")


def _print(out: Console, fit: LawFit, comparison: Comparison | None) -> None:
    from rich.table import Table

    from sparsing.laws import law_tables as tables

    def show(title: str, columns, rows) -> None:
        table = Table(title=title, title_justify="left", highlight=False)
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*row)
        out.print(table)

    out.print(f"\n[bold]{fit.name}[/bold]: {fit.law.title}, {fit.equation}", highlight=False)
    if comparison:
        show("forms on the same points", tables.RANK_COLUMNS, tables.rank_rows(comparison))
    show(f"coefficients, {fit.level:.0%} intervals", tables.COEFFICIENT_COLUMNS, tables.coefficient_rows(fit))
    show("fit", tables.SUMMARY_COLUMNS, tables.summary_rows(fit))
    out.print(f"[bold]verdict:[/bold] {fit.verdict}", highlight=False)
