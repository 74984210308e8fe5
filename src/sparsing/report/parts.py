"""What a page is made of, as plain values: cards, tables, sections of charts, panels, explorers.

`document.py` fills these from saved results, `page.py` writes them as HTML.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from sparsing.report.charts import Chart


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text under a header."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
    """The first screen of one model: the one figure, and what it would buy."""

    model: str
    name: str
    """What was measured, e.g. `PPL-1%`."""
    figure: str
    interval: str
    sentence: str
    gains: Sequence[tuple[str, str]]
    """Pairs of a label and a value."""
    cautions: Sequence[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page: tables and charts that are always shown."""

    title: str
    note: str = ""
    tables: Sequence[Table] = ()
    charts: Sequence[Chart] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Panel:
    """One measurement from inside; the page shows one panel at a time."""

    label: str
    table: Table
    charts: Sequence[Chart]
    text: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explorer:
    """The neurons of one model, to search and sort."""

    label: str
    data: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Document:
    """Everything on the page."""

    title: str
    cards: Sequence[Card]
    sections: Sequence[Section]
    panels: Sequence[Panel]
    explorers: Sequence[Explorer]
    origins: Sequence[tuple[str, Table, str]]
    """Model, its provenance, the command that measures it again."""
