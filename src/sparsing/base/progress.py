"""Progress bars with time left, on stderr; silent when turned off or when stderr is no terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator


class Progress:
    """Shows one bar per pass. `Progress(False)` shows nothing."""

    def __init__(self, show: bool | None = None):
        self._show = sys.stderr.isatty() if show is None else show

    @contextlib.contextmanager
    def bar(self, label: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
        """A bar over `total` tokens of which `done` are behind; yields a function that advances it."""
        if not self._show:
            yield lambda count: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (
            TextColumn("{task.description:<28}"),
            BarColumn(),
            TextColumn("{task.completed:>9,.0f}/{task.total:,.0f} tokens"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Bars(*columns, console=Console(stderr=True)) as bars:
            task = bars.add_task(label, total=total, completed=done)
            yield lambda count: bars.advance(task, count)
