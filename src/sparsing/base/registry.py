"""Name to record, with a suggestion when a name is mistyped. One `Registry` exists per kind of thing."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Generic, TypeVar

from sparsing.errors import InputError

T = TypeVar("T")


class Registry(Generic[T]):
    """A mapping that refuses a name taken twice and suggests the nearest name when one is missing."""

    def __init__(self, kind: str):
        self.kind = kind
        self._records: dict[str, T] = {}

    def register(self, name: str, record: T) -> T:
        """Add `record` under `name`.

        Raises:
            ValueError: the name is taken.
        """
        if name in self._records:
            raise ValueError(f"{self.kind} {name!r} is already registered by {self._records[name]!r}")
        self._records[name] = record
        return record

    def __getitem__(self, name: str) -> T:
        if name in self._records:
            return self._records[name]
        close = difflib.get_close_matches(name, self._records, n=1, cutoff=0.5)
        hint = f" Did you mean: {close[0]}?" if close else ""
        raise InputError(f"Unknown {self.kind} {name!r}.{hint} Available: {', '.join(self)}.")

    def __contains__(self, name: object) -> bool:
        return name in self._records

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._records))

    def __len__(self) -> int:
        return len(self._records)
