"""`sparsing forecast`: the activation ratio at a number of tokens, or the tokens for a ratio, from a saved fit."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sparsing.cli import _common as common

if TYPE_CHECKING:
    from sparsing.laws import LawFit

EPILOG = """examples:
  sparsing forecast law/points.json --tokens 1e12
  sparsing forecast law --ratio 0.08 --json    (the only fit in the folder)
"""

_LEAST_TOKENS = 1e5
"""Fewer tokens than this are taken for billions."""


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "forecast",
        help="forecast a ratio, or the tokens for a ratio, from a fitted law",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("fit", type=Path, help="file of a fit that `sparsing fit -o` wrote, or its folder")
    question = parser.add_mutually_exclusive_group(required=True)
    question.add_argument("--tokens", type=float, help="training tokens (a count), e.g. 1e12")
    question.add_argument("--ratio", type=float, help="activation ratio in [0, 1], e.g. 0.08")
    parser.add_argument("-o", "--output", type=Path, help="also save the forecast to this .json file")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    return parser


def run(args: argparse.Namespace) -> int:
    from sparsing.errors import InputError
    from sparsing.laws import FORMS, forecast
    from sparsing.laws import law_tables as tables

    if args.tokens is not None and args.tokens < _LEAST_TOKENS:
        raise InputError(
            f"--tokens is a count of training tokens, got {args.tokens:g}; {args.tokens:g} billion is"
            f" {args.tokens * 1e9:g}"
        )
    answer = forecast(_read_fit(args.fit), tokens=args.tokens, ratio=args.ratio)
    if args.output:
        answer.save(args.output)
    if args.json:
        common.print_json(answer)
        return 0
    title = f"{answer.name}, {FORMS[answer.form].label}"
    common.print_table(title, tables.SUMMARY_COLUMNS, tables.forecast_rows(answer), prose=True)
    if answer.warning:
        print(f"note: {answer.warning}")
    return 0


def _read_fit(path: Path) -> LawFit:
    """The fit in this file, or the only fit in this folder.

    Raises:
        InputError: If there is no such file and no single fit in the folder.
    """
    from sparsing.errors import InputError
    from sparsing.laws import LawFit
    from sparsing.report.saved_results import read_runs

    if not path.is_dir():
        return LawFit.load(path)
    fits = read_runs([path]).laws
    if len(fits) == 1:
        return fits[0]
    names = " ".join(str(path / f"{fit.name}.json") for fit in fits)
    raise InputError(f"{str(path)!r} holds {len(fits)} fits; name one of them: {names or 'none'}")
