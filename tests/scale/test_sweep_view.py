"""Tests of what a sweep shows: lines in a log, and the live table of a terminal."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from sparsing.scale.cell import DONE, FAILED, Cell, CellRecord
from sparsing.scale.sweep_view import SweepView


def cell(name: str) -> Cell:
    return Cell(name=name, labels={}, folder=Path(name), commands=())


def record(name: str, outcome: str, message: str = "") -> CellRecord:
    return CellRecord(
        name=name,
        labels={},
        identity="",
        outcome=outcome,
        attempts=1,
        wall_sec=65.0,
        host="",
        message=message,
    )


def test_a_log_has_a_line_per_event(capsys):
    with SweepView(3, 1) as view:
        view.started(cell("a"), 1)
        view.ended(cell("a"), record("a", FAILED, "first\nlast \x1b[31mline"), True)
        view.started(cell("a"), 2)
        view.ended(cell("a"), record("a", DONE), False)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:4] == [
        "3 cells, 1 of them done before",
        "start a",
        "failed a: last \\x1b[31mline; it will be tried again",
        "start a, attempt 2",
    ]
    assert lines[4].startswith("done a in 1 min 5 s; 2/3, about ")


def test_the_table_counts_cells_and_lists_those_that_run():
    view = SweepView(5, 1, show=False)
    view.started(cell("[b]"), 2)
    view.ended(cell("c"), record("c", FAILED, "no [memory]"), False)
    out = io.StringIO()
    Console(file=out, width=100).print(view._table())
    assert "1 of 5 cells done, 1 running, 2 waiting, 1 failed" in out.getvalue()
    assert "[b]" in out.getvalue()
    assert "no [memory]" in out.getvalue()
