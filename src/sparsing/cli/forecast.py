"""`sparsing forecast`: the ratio at a number of tokens, or the tokens for a ratio, from a saved fit."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

EPILOG = """examples:
  sparsing forecast law/points.json --tokens 1e12
  sparsing forecast law/points.json --ratio 0.08 --json
"""


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "forecast",
        help="ask a fitted law for a ratio or for the tokens it takes",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("fit", type=Path, help="JSON that `sparsing fit -o` has written")
    question = parser.add_mutually_exclusive_group(required=True)
    question.add_argument("--tokens", type=float, help="training tokens, a count, e.g. 1e12")
    question.add_argument("--ratio", type=float, help="activation ratio in [0, 1], e.g. 0.08")
    parser.add_argument("-o", "--output", type=Path, help="write the forecast to this .json")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout instead of a table")
    return parser


def run(args: argparse.Namespace) -> int:
    from sparsing.laws import LawFit, forecast

    found = forecast(LawFit.load(args.fit), tokens=args.tokens, ratio=args.ratio)
    if args.output:
        found.save(args.output)
    if args.json:
        print(json.dumps(found.to_dict(), indent=1))
        return 0
    from rich.console import Console
    from rich.table import Table

    from sparsing.laws import law_tables as tables

    table = Table(title=f"{found.name}, {found.form}", title_justify="left", highlight=False)
    for column in tables.SUMMARY_COLUMNS:
        table.add_column(column, overflow="fold")
    for row in tables.forecast_rows(found):
        table.add_row(*row)
    out = Console()
    out.print(table)
    if found.warning:
        out.print(f"[bold]note:[/bold] {found.warning}", highlight=False)
    return 0
