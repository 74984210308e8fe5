"""The `sparsing` command. Each module of this folder whose name does not begin with `_` is one subcommand.

A subcommand has `add_parser(subparsers)` and `run(args)`, which returns the exit status. It imports torch and
transformers inside `run` only, because they take seconds to import and `sparsing --help` must answer at once.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import io
import logging
import os
import pkgutil
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence

from sparsing.cli._parser import Parser

EPILOG = """first steps:
  sparsing demo                            measure two small built-in models, in minutes; nothing is downloaded
  sparsing measure MODEL --text book.txt   how many neurons must stay active if perplexity may rise by 1%
  sparsing advise MODEL --text book.txt    does it pay to skip the others on this machine
  sparsing COMMAND --help                  options and examples of a command
"""
NOISY_LOGGERS = ("torchao", "torch.utils._pytree")
"""Loggers that warn about the build of torchao whenever transformers imports it, also if no command uses it."""
THREADS_HELP = "CPU threads (default: OMP_NUM_THREADS, else the cores that this process may use)"


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command line, with all subcommands of this folder."""
    from sparsing import __version__

    parser = Parser(
        prog="sparsing",
        description="Measure, exploit and predict activation sparsity in large language models.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sparsing {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="log progress to stderr (default: off)")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")):
        command = importlib.import_module(f"{__name__}.{module}")
        subparser = command.add_parser(subparsers)
        if subparser.prefix_chars == "-":  # lm-eval reads its own options
            subparser.add_argument("--threads", type=int, metavar="N", help=THREADS_HELP)
        subparser.set_defaults(run=command.run, parser=subparser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status.

    Returns: 0 for success, 2 for invalid input, 130 after Ctrl-C (SIGINT), 143 after SIGTERM.
    """
    from sparsing.hardware.threads import set_threads

    _accept_any_text()
    argv = sys.argv[1:] if argv is None else argv
    parser = build_parser()
    if not argv:
        parser.print_help()
        return 0
    args = parser.parse_args(argv)
    logging.basicConfig(
        level=logging.INFO if args.verbose else logging.WARNING,
        format="%(levelname)s: %(message)s",
        stream=sys.stderr,
    )
    if not args.verbose:
        for name in NOISY_LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
    # users need the text of a warning in one line, not the line of code that issued it
    warnings.showwarning = lambda message, *_, **__: logging.getLogger("sparsing").warning("%s", message)
    try:
        with _sigterm_raises(), contextlib.ExitStack() as args.until_the_end:
            # in a process that has computed already, only an explicit number changes the setting
            if "torch" not in sys.modules or getattr(args, "threads", None):
                set_threads(getattr(args, "threads", None))
            status = _run(args)
        sys.stdout.flush()  # here, since an error at the exit of the interpreter would be a traceback
        return status
    except KeyboardInterrupt as error:
        words = shlex.join(["sparsing", *argv])
        print(
            f"interrupted; finished work is saved; rerun the same command to resume: {words}", file=sys.stderr
        )
        return 143 if isinstance(error, Terminated) else 130
    except Exception as error:
        return _status_of(error)


def _run(args: argparse.Namespace) -> int:
    """Runs the command; under `torchrun` the first process runs it, unless every process has to (`every_process`)."""
    from sparsing.base.launched import num_processes

    if num_processes() == 1 or getattr(args, "every_process", False):
        return args.run(args)
    from sparsing.measuring.processes import lead

    return lead(lambda: args.run(args))


def _status_of(error: Exception) -> int:
    """Prints the message of an expected error and returns the exit status; raises an unexpected error again."""
    from sparsing.errors import SparsityError

    if isinstance(error, SparsityError):
        print(f"error: {error}", file=sys.stderr)
        return 2
    if isinstance(error, BrokenPipeError):  # the reader of a pipe, such as `head`, has seen enough
        _discard_stdout()
        return 0
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        _discard_stdout()
        print(f"error: {error}; free some space and run the same command again", file=sys.stderr)
        return 2
    raise error


class Terminated(KeyboardInterrupt):
    """SIGTERM was received. It passes through all handlers that let Ctrl-C through."""


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Inside the block SIGTERM raises `Terminated`, so that locks and temporary files are removed."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return

    def terminate(*_: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _accept_any_text() -> None:
    """Prints characters that the terminal cannot encode, such as bytes of a file name, as escape sequences."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115,PTH123  (None if the shell has closed it)
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115,PTH123
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _discard_stdout() -> None:
    """Sends the rest of stdout nowhere. The interpreter flushes stdout at its exit and would fail again."""
    with contextlib.suppress(OSError, ValueError):  # a stream in memory has no file number
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
