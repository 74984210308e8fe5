"""The `sparsing` command. Each module of this folder whose name does not begin with `_` is one subcommand.

A subcommand has `add_parser(subparsers)` and `run(args)`, which returns the exit status. It imports torch and
transformers inside `run` only, because they take seconds to import and `sparsing --help` must answer at once.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import pkgutil
import sys
import warnings
from collections.abc import Sequence

THREADS_HELP = "CPU threads (default: OMP_NUM_THREADS, else the cores that this process may use)"


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command line, with all subcommands of this folder."""
    from sparsing import __version__

    parser = argparse.ArgumentParser(
        prog="sparsing",
        description="Measure, exploit and predict activation sparsity in large language models.",
    )
    parser.add_argument("--version", action="version", version=f"sparsing {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="log progress to stderr (default: off)")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")):
        command = importlib.import_module(f"{__name__}.{module}")
        subparser = command.add_parser(subparsers)
        if subparser.prefix_chars == "-":  # lm-eval reads its own options
            subparser.add_argument("--threads", type=int, metavar="N", help=THREADS_HELP)
        subparser.set_defaults(run=command.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0 for success, 2 for invalid input, 130 after Ctrl-C."""
    from sparsing.errors import SparsityError
    from sparsing.hardware.threads import set_threads

    args = build_parser().parse_args(argv)
    logging.basicConfig(
        level=logging.INFO if args.verbose else logging.WARNING,
        format="%(levelname)s: %(message)s",
        stream=sys.stderr,
    )
    # users need the text of a warning in one line, not the line of code that issued it
    warnings.showwarning = lambda message, *_, **__: logging.getLogger("sparsing").warning("%s", message)
    try:
        # in a process that has computed already, only an explicit number changes the setting
        if "torch" not in sys.modules or getattr(args, "threads", None):
            set_threads(getattr(args, "threads", None))
        return args.run(args)
    except SparsityError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; finished work is saved, run the same command again to continue", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        return 0
