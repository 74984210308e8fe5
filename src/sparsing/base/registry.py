"""`Registry`: finds records by name, e.g. rules, scores, families of models and forms of laws.

Each kind of record has one `Registry`. A file registers its records when it is imported, so adding a record means
adding a file.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from sparsing.errors import InputError

T = TypeVar("T")


class Registry(Generic[T]):
    """A mapping from name to record that iterates in alphabetical order.

    Args:
        kind: What the records are, in the singular, for messages: `rule`, `model type`.
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._records: dict[str, T] = {}

    def register(self, name: str, record: T) -> T:
        """Adds `record` under `name` and returns it.

        Raises:
            ValueError: If another record has the name.
        """
        if name in self._records:
            # a mistake in the source, not of the user: therefore no InputError
            raise ValueError(f"{self.kind} {name!r} is already registered by {self._records[name]!r}")
        self._records[name] = record
        return record

    def __getitem__(self, name: str) -> T:
        """The record of that name.

        Raises:
            InputError: If no record has the name. The message suggests the nearest name.
        """
        if name in self._records:
            return self._records[name]
        hint = did_you_mean(name, self._records)
        raise InputError(f"Unknown {self.kind} {name!r}.{hint} Available: {', '.join(self)}.")

    def __contains__(self, name: object) -> bool:
        return name in self._records

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._records))

    def __len__(self) -> int:
        return len(self._records)


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """` Did you mean: <the nearest name>?` with a space before it, for messages; empty if no name is near."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f" Did you mean: {close[0]}?" if close else ""
