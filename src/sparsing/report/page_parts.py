"""The parts of a report page as plain values: cards, tables, sections of charts, panels, explorers.

`document.py` fills the parts from saved results, `page.py` writes them as HTML.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from sparsing.report.chart import Chart


@dataclasses.dataclass(frozen=True, kw_only=True)
class PageTable:
    """Rows of text under a header."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
    """The first screen of one model: its main figure, and the gains that follow from it."""

    model: str
    name: str
    """The measure, such as `PPL-1%`."""
    figure: str
    interval: str
    sentence: str
    gains: Sequence[tuple[str, str]]
    """Pairs of a label and a value."""
    cautions: Sequence[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page: charts, tables, and tables that the reader opens."""

    title: str
    note: str = ""
    tables: Sequence[PageTable] = ()
    charts: Sequence[Chart] = ()
    folded_title: str = ""
    """What the folded tables are."""
    folded: Sequence[PageTable] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Panel:
    """The charts, text and tables of one measurement. The page shows one panel at a time."""

    label: str
    tables: Sequence[PageTable]
    charts: Sequence[Chart]
    text: dict[str, Any] | None = None
    """Data of the text view; see `text_view.py`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explorer:
    """The table of one model's neurons, which the reader can search and sort."""

    label: str
    data: dict[str, Any]
    """See `neuron_view.py`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    """The provenance of the results of one command."""

    title: str
    """The command and the models."""
    table: PageTable
    command: str
    """The command line that makes the results again; empty if it is not known."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Document:
    """Everything on the page."""

    title: str
    answers: Sequence[str]
    """The results in a sentence per model, under the title."""
    cards: Sequence[Card]
    sections: Sequence[Section]
    panels: Sequence[Panel]
    explorers: Sequence[Explorer]
    origins: Sequence[Origin]
