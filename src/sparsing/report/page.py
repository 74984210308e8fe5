"""Writes a document as one HTML file that contains its styles, scripts, plotting library and data.

The page loads nothing: its content security policy forbids the network and all scripts except its own, which the
policy names by their digests. Text is escaped where it enters HTML (jinja2), the JSON data (`script_json`) and the
charts (`assets/charts.js`), since a token may be `<script>`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsing.base.results import write_text
from sparsing.report.interactive import chart_data, depth_scale, theme_css
from sparsing.report.labels import escape_unprintable

if TYPE_CHECKING:
    from jinja2 import Environment

    from sparsing.report.chart import Chart
    from sparsing.report.page_parts import Document

SCRIPTS = ("page.js", "charts.js", "text.js", "neurons.js")
"""The scripts in loading order; the first defines functions that the others use."""
SHORT_TEXT = 16
"""Characters of a cell that stays on one line, also on a phone."""
_UNIT = r"( ?(%|x|s|[kKMG]?B|K|M))?"
_INTERVAL = r"[\[(][-+\d., %ekMGB]*[\])]"
_NUMBER = re.compile(
    rf"[-+]?(\d[\d.,]*(e[-+]?\d+)?|nan|inf){_UNIT}( ?{_INTERVAL})?( to [-+][\d.]+)?|{_INTERVAL}"
)
"""A number, optionally with a unit and an interval in brackets, the two ends of an interval, or an interval alone."""


def write_report(document: Document, path: str | Path) -> Path:
    """Writes the page to `path` and returns the path.

    Raises:
        InputError: if the folder is not writable or the disk is full.
    """
    path = Path(path)
    write_text(path, render(document))
    return path


def render(document: Document) -> str:
    """The page as HTML text."""
    from plotly.offline import get_plotlyjs

    charts: list[Chart] = []

    def place(chart: Chart) -> int:
        charts.append(chart)
        return len(charts) - 1

    body = _environment().get_template("body.html.j2").render(document=document, place=place)
    data = {
        "charts": [chart_data(chart) for chart in charts],
        "depth_scale": depth_scale(),
        "panels": [{"text": panel.text} for panel in document.panels],
        "explorers": [explorer.data for explorer in document.explorers],
    }
    scripts = [get_plotlyjs(), "\n".join(_asset(name) for name in SCRIPTS)]
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            title=document.title,
            policy=content_policy(scripts),
            colours=theme_css(),
            style=_asset("page.css"),
            body=body,
            data=script_json(data),
            scripts=scripts,
        )
    )


def content_policy(scripts: Sequence[str]) -> str:
    """The page's security policy: no network, frames or forms, and only these scripts, named by their SHA-256."""
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    # Plotly sets inline styles, and makes images for download from data: and blob: addresses
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:;"
        " base-uri 'none'; form-action 'none'"
    )


def script_json(value: Any) -> str:
    """JSON for a script element: plain ASCII, without characters that end the element or a line.

    Raises:
        ValueError: if a number is not finite.
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))  # non-ASCII characters become escapes
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def is_numeric(cells: Sequence[str]) -> bool:
    """True if a column holds numbers only, apart from empty cells and dashes; such a column is aligned right."""
    filled = [cell for cell in cells if cell]
    return bool(filled) and all(cell == "-" or _NUMBER.fullmatch(cell) for cell in filled)


def _kind(cells: Sequence[str]) -> str:
    """The CSS class of a column: `number`, `short` for text that fits on one line, or none."""
    if is_numeric(cells):
        return "number"
    return "short" if all(len(cell) <= SHORT_TEXT for cell in cells) else ""


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("sparsing.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: escape_unprintable(value, keep="\n") if type(value) is str else value,
    )
    made.filters["kinds"] = lambda rows: [_kind(column) for column in zip(*rows, strict=True)]
    return made


def _asset(name: str) -> str:
    return (resources.files("sparsing.report") / "assets" / name).read_text(encoding="utf-8")
