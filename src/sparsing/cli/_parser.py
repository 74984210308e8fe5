"""The parser of the command line: misspelt commands, options and values are answered with the nearest name.

Python's own parser does so from version 3.14 on (`suggest_on_error`), and not for options.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from sparsing.base.registry import did_you_mean


class Parser(argparse.ArgumentParser):
    """`argparse.ArgumentParser` with suggestions. Subcommands are parsed by the same class."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._words: list[str] = []

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """As in argparse; an unknown option ends the program with a message of the subcommand."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            parser: argparse.ArgumentParser = getattr(parsed, "parser", self)
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """As in argparse; the words are kept for `error`."""
        self._words = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        kind = "command" if isinstance(action, argparse._SubParsersAction) else "value"
        hint = did_you_mean(str(value), choices)
        raise argparse.ArgumentError(
            action, f"unknown {kind} {value!r}.{hint} Available: {', '.join(choices)}."
        )

    def error(self, message: str) -> NoReturn:
        """Prints the error and how to get help, and exits with status 2. The usage of many options would hide it."""
        hint = self._misspelt() or self._missing(message)
        self.exit(2, f"error: {message}{hint}\nhelp: {self.prog} --help\n")

    def _missing(self, message: str) -> str:
        """What the missing arguments are, from their help; empty if the error is another one."""
        _, required, names = message.partition("arguments are required: ")
        missing = names.split(", ") if required else []
        known = {name: action for action in self._actions for name in _names(action)}
        return "".join(
            f"; {name}: {known[name].help}" for name in missing if name in known and known[name].help
        )

    def _misspelt(self) -> str:
        """The first unknown option and the nearest option; empty if all options are known or none is near."""
        options = self._option_string_actions
        for word in self._words:
            name = word.partition("=")[0]
            if name.startswith("--") and not any(option.startswith(name) for option in options):
                hint = did_you_mean(name, options)
                return f"; unknown option {name}.{hint}" if hint else ""
        return ""


def _names(action: argparse.Action) -> list[str]:
    """The names by which argparse reports that an argument is missing."""
    return (
        ["/".join(action.option_strings)] if action.option_strings else [str(action.metavar or action.dest)]
    )
