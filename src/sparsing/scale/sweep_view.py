"""Shows a sweep while it runs: a live table on a terminal, and one line per event in a log."""

from __future__ import annotations

import sys
import time
from collections import Counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from sparsing.base.progress import duration
from sparsing.scale.cell import DONE, Cell, CellRecord

if TYPE_CHECKING:
    from rich.console import Group

_SHOWN = 12
"""Running cells, and failures, that the live table lists."""


class SweepView:
    """The state of a sweep, as a context manager that keeps the live table on the screen.

    Args:
        total: Cells of the sweep.
        done: Cells that earlier runs finished.
        show: False shows only failures. None shows a table on a terminal and lines otherwise.
    """

    def __init__(self, total: int, done: int, show: bool | None = None):
        self._total, self._before = total, done
        self._counts = Counter(done=done)
        self._running: dict[str, tuple[int, float]] = {}
        self._failures: list[str] = []
        self._began = time.monotonic()
        self._live: Any = None
        self._style = "" if show is False else "table" if sys.stderr.isatty() else "lines"

    def __enter__(self) -> Self:
        if self._style == "table":
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), refresh_per_second=2, transient=True)
            self._live.start()
        elif self._style == "lines":
            self._print(f"{self._total} cells, {self._before} of them done before")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def started(self, cell: Cell, attempt: int) -> None:
        self._running[cell.name] = (attempt, time.monotonic())
        if self._style == "lines":
            self._print(f"start {cell.name}" + (f", attempt {attempt}" if attempt > 1 else ""))

    def ended(self, cell: Cell, record: CellRecord, again: bool) -> None:
        self._running.pop(cell.name, None)
        if record.outcome == DONE:
            self._counts["done"] += 1
            if self._style == "lines":
                ready = f"{self._counts['done']}/{self._total}"
                self._print(f"done {cell.name} in {duration(record.wall_sec)}; {ready}, {self._left()}")
            return
        reason = (record.message.splitlines() or [""])[-1]
        text = f"{record.outcome} {cell.name}: {reason}{'; it will be tried again' if again else ''}"
        self._failures.append(text)
        if not again:
            self._counts["failed"] += 1
        if self._style != "table":
            self._print(text)

    def refresh(self) -> None:
        """Draws the live table anew."""
        if self._live:
            self._live.update(self._table())

    def _table(self) -> Group:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        counts = self._counts
        waiting = self._total - counts["done"] - counts["failed"] - len(self._running)
        state = (
            f"{counts['done']} of {self._total} cells done, {len(self._running)} running, {waiting} waiting,"
            f" {counts['failed']} failed; {self._left()}"
        )
        table = Table(box=None)
        for name in ("running", "attempt", "time"):
            table.add_column(name, justify="left" if name == "running" else "right")
        now = time.monotonic()
        for name, (attempt, began) in list(self._running.items())[:_SHOWN]:
            table.add_row(Text(name), str(attempt), duration(now - began))
        for failure in self._failures[-_SHOWN:]:
            table.add_row(Text(failure, style="yellow"), "", "")
        return Group(state, table)

    def _left(self) -> str:
        """The time that is left, from the cells that this run has finished."""
        finished = self._counts["done"] - self._before
        elapsed = time.monotonic() - self._began
        if not finished:
            return f"{duration(elapsed)} so far"
        left = self._total - self._counts["done"] - self._counts["failed"]
        return f"about {duration(elapsed / finished * left)} left"

    @staticmethod
    def _print(text: str) -> None:
        printable = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
        print(printable, file=sys.stderr, flush=True)  # noqa: T201  (progress belongs on stderr)
