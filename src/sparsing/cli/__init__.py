"""The `sparsing` command: one file per subcommand, each with `add_parser(subparsers)` and `run(args)`.

Every module of this folder whose name does not begin with `_` is a subcommand. They import torch and
transformers inside `run` only, so `sparsing --help` answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import pkgutil
import sys
import warnings
from collections.abc import Sequence


def build_parser() -> argparse.ArgumentParser:
    """The parser with every subcommand found in this folder."""
    from sparsing import __version__

    parser = argparse.ArgumentParser(
        prog="sparsing",
        description="Measure, exploit and predict activation sparsity in large language models.",
    )
    parser.add_argument("--version", action="version", version=f"sparsing {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="log what is being done (to stderr)")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")):
        command = importlib.import_module(f"{__name__}.{module}")
        command.add_parser(subparsers).set_defaults(run=command.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status: 0 done, 2 bad input, 130 interrupted."""
    from sparsing.errors import SparsityError

    args = build_parser().parse_args(argv)
    logging.basicConfig(
        level=logging.INFO if args.verbose else logging.WARNING,
        format="%(levelname)s: %(message)s",
        stream=sys.stderr,
    )
    # a warning is said in one line, without the place in the code
    warnings.showwarning = lambda message, *_, **__: logging.getLogger("sparsing").warning("%s", message)
    try:
        return args.run(args)
    except SparsityError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what was computed is kept, the same command goes on from there", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
