"""Progress bars on stderr for work that is counted in tokens.

By default bars are drawn only if stderr is a terminal, so that logs of batch jobs hold none.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Generator


class Progress:
    """Draws one bar per pass over a corpus.

    Args:
        show: False draws nothing. None draws bars only when stderr is a terminal.
    """

    def __init__(self, show: bool | None = None):
        self._show = sys.stderr.isatty() if show is None else show

    @contextlib.contextmanager
    def bar(self, label: str, total: int, done: int = 0) -> Generator[Callable[[int], None]]:
        """Draws a bar inside the `with` block; yields the function that advances the bar by a number of tokens.

        Args:
            label: Text before the bar.
            total: Tokens of the whole work.
            done: Tokens that an earlier run has finished already.
        """
        if not self._show:
            yield lambda count: None
            return
        # imported here: a library call without a bar does not need rich
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (
            TextColumn("{task.description:<28}", markup=False),
            BarColumn(),
            TextColumn("{task.completed:>9,.0f}/{task.total:,.0f} tokens"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        # stderr, because stdout belongs to results and may be piped
        with Bars(*columns, console=Console(stderr=True)) as bars:
            task = bars.add_task(label, total=total, completed=done)
            yield lambda count: bars.advance(task, count)
