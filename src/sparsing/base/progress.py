"""Progress of long work on stderr: bars on a terminal, and plain lines, at most 30 seconds apart, in a log.

A command calls `plan` with the whole amount of work. Each part of it, such as a pass over a corpus, is then a `bar`.
The time that is left is that of the whole plan. stdout is never written, because it belongs to results.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Generator

LINE_EVERY_SEC = 30.0
"""Seconds between two lines in a log."""


class Progress:
    """Shows how far the work is.

    Args:
        show: False shows nothing. None shows bars if stderr is a terminal, and lines otherwise.
    """

    def __init__(self, show: bool | None = None):
        self._style = "" if show is False else "bars" if sys.stderr.isatty() else "lines"
        self._what, self._planned, self._done = "", 0.0, 0.0
        self._began = self._last_line = time.monotonic()
        self._sec_each: float | None = None
        self._ended: list[_Part] = []

    def plan(self, what: str, total: float) -> None:
        """Names the whole work that the following bars are parts of.

        Args:
            what: Name of the work, e.g. `measure PPL-1%`.
            total: Estimate of the sum of all bars.
        """
        self._what, self._planned, self._done, self._sec_each = what, total, 0.0, None
        self._ended = []
        self._began = self._last_line = time.monotonic()

    def pace(self, sec_each: float) -> None:
        """Takes an estimate of the seconds for one unit (usually a token), and says how long the plan will take."""
        self._sec_each = sec_each
        if self._style and self._planned:
            self._print(f"about {duration(self._planned * sec_each)}, by the time of the first batches")

    @contextlib.contextmanager
    def bar(
        self, label: str, total: int, done: int = 0, *, usual: bool = True
    ) -> Generator[Callable[[int], None]]:
        """Shows one part of the work inside the `with` block; yields the function that advances it by some units.

        Args:
            label: Text before the bar.
            total: Units (usually tokens) of this part.
            done: Units that an earlier run has finished already.
            usual: Whether a unit takes about as long as in other parts. Otherwise the speed of this part says nothing
                about the time that the others will take.
        """
        part = _Part(label, total, done, usual)
        self._done += done
        shown = {"bars": self._bars, "lines": self._lines}.get(self._style)
        with shown(part) if shown else contextlib.nullcontext(lambda: None) as refresh:

            def advance(count: int) -> None:
                part.advance(count)
                self._done += count
                refresh()

            yield advance
        self._ended.append(part)

    @contextlib.contextmanager
    def _lines(self, part: _Part) -> Generator[Callable[[], None]]:
        """Prints a line whenever `LINE_EVERY_SEC` have passed, also while a single step takes longer."""
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(max(0.0, self._last_line + LINE_EVERY_SEC - time.monotonic())):
                self._print(
                    f"{part.label}, {part.done / part.total:.0%} of {part.total:,}; {self._left(part)}"
                )

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield lambda: None
        finally:
            stop.set()
            thread.join()

    @contextlib.contextmanager
    def _bars(self, part: _Part) -> Generator[Callable[[], None]]:
        """Draws the bar of the plan and the bar of this part below it."""
        # imported here: a library call without a bar does not need rich
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed:>9,.0f}/{task.total:,.0f}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
        )
        with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
            whole = bars.add_task(self._what, total=self._planned, left="") if self._planned else None
            task = bars.add_task(part.label, total=part.total, completed=part.done, left="")

            def refresh() -> None:
                bars.update(task, completed=part.done)
                if whole is not None:
                    bars.update(whole, completed=min(self._done, self._planned), left=self._left(part))

            refresh()
            yield refresh

    def _left(self, part: _Part) -> str:
        """The time that is left for the plan: that of this part by its own speed, and that of the parts after it."""
        usual = [one for one in (*self._ended, part) if one.usual and one.sec > 1]
        done = sum(one.own for one in usual)
        each = sum(one.sec for one in usual) / done if done else self._sec_each
        own = each if part.usual or not part.own or part.sec <= 1 else part.sec / part.own
        if each is None or own is None or not self._planned:
            return f"{duration(time.monotonic() - self._began)} so far"
        rest = part.total - part.done
        # a search may need more tries than planned: something is left as long as work goes on
        after = max(self._planned - self._done - rest, 0.0 if rest else 0.02 * self._planned)
        return f"about {duration(rest * own + after * each)} left"

    def _print(self, text: str) -> None:
        self._last_line = time.monotonic()
        sys.stderr.write((f"{self._what}: {text}" if self._what else text) + "\n")
        sys.stderr.flush()


class _Part:
    """A part of the work: its size, how much of it is done, and the time that this took."""

    def __init__(self, label: str, total: int, done: int, usual: bool):
        self.label, self.total, self.done, self.usual = label, total, done, usual
        self.own = 0
        """Units that this run has finished."""
        self.sec = 0.0
        """Seconds until the latest of them."""
        self._began = time.monotonic()

    def advance(self, count: int) -> None:
        self.done += count
        self.own += count
        self.sec = time.monotonic() - self._began


def duration(seconds: float) -> str:
    """A time for readers: `40 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole < 600 and whole % 60 else "")
    return f"{whole // 3600} h {whole % 3600 // 60} min"
