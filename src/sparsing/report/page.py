"""A folder of results as one page: `index.html`, made of notes, tables, commands and the pictures beside it.

The page needs no network and no script, follows the reader's light or dark setting, fits a phone and prints.
Everything that is not the page's own is escaped: a token may be `<script>`.
"""

from __future__ import annotations

import dataclasses
import html
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from sparsing.errors import InputError
from sparsing.report.labels import escape_unprintable
from sparsing.results import write_text

_NUMBER = re.compile(r"[-+]?(\d[\d.,]*(e[-+]?\d+)?|nan|inf)( ?(%|x|s|K|M|B))?( ?[\[(][-+\d., %e]*[\])])?")
"""With a unit or not, with an interval in brackets or not."""
_STYLE = Path(__file__).with_name("page.css")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heading:
    """Begins a part of the page; it is linked from the top."""

    text: str
    """One line."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Note:
    """A paragraph."""

    text: str
    """Plain text; a blank line begins another paragraph."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Something to type into a terminal, or what a program has printed."""

    text: str
    """Shown as it stands, line by line."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under a header. A column whose cells are all numbers is set flush right."""

    caption: str
    """What the table shows, with its units."""
    header: Sequence[str]
    """Names of the columns."""
    rows: Sequence[Sequence[object]]
    """Cells, as many in each row as the header has; None stays empty."""

    def __post_init__(self) -> None:
        wrong = [len(row) for row in self.rows if len(row) != len(self.header)]
        if wrong:
            raise InputError(
                f"table {self.caption!r} has {len(self.header)} columns, but a row of {wrong[0]} cells;"
                " give one cell per column, None for an empty one"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture file of the folder; its siblings in other formats are linked below it."""

    path: str | Path
    """Inside the folder of the page: absolute, or relative to that folder."""
    caption: str
    """What is to be seen; also what is read aloud in its place."""


Block = Heading | Note | Command | Table | Picture


def write_index(folder: str | Path, title: str, sections: Sequence[Block]) -> Path:
    """Write `index.html` into `folder` out of these blocks, in order; returns its path.

    Raises:
        InputError: a picture that is not in the folder, an unwritable folder, a full disk.
    """
    folder = Path(folder)
    body = "\n".join(_block(block, folder, number) for number, block in enumerate(sections))
    links = "".join(
        f'<a href="#part-{number}">{_text(block.text)}</a>'
        for number, block in enumerate(sections)
        if isinstance(block, Heading)
    )
    contents = f'<nav aria-label="Contents">{links}</nav>' if links else ""
    path = folder / "index.html"
    write_text(path, _page(title, contents + "\n" + body))
    return path


def _page(title: str, body: str) -> str:
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{_text(title)}</title>
<style>
{_STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<main>
<h1>{_text(title)}</h1>
{body}
</main>
</body>
</html>
"""


def _block(block: Block, folder: Path, number: int) -> str:
    match block:
        case Heading():
            return f'<h2 id="part-{number}">{_text(block.text)}</h2>'
        case Note():
            return "\n".join(f"<p>{_text(part)}</p>" for part in re.split(r"\n\s*\n", block.text))
        case Command():
            return f'<pre tabindex="0"><code>{_text(block.text)}</code></pre>'
        case Table():
            return _table(block)
        case Picture():
            return _picture(block, folder)


def _table(table: Table) -> str:
    columns = zip(*table.rows, strict=True) if table.rows else ([] for _ in table.header)
    number = [' class="number"' if _is_numeric(column) else "" for column in columns]
    head = "".join(f"<th{kind}>{_text(cell)}</th>" for cell, kind in zip(table.header, number, strict=True))
    rows = "\n".join(
        "<tr>" + "".join(f"<td{kind}>{_cell(c)}</td>" for c, kind in zip(row, number, strict=True)) + "</tr>"
        for row in table.rows
    )
    return (
        f"<figure>\n<figcaption>{_text(table.caption)}</figcaption>\n"
        f'<div class="wide" tabindex="0"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody>\n</table></div>\n</figure>"
    )


def _is_numeric(cells: Sequence[object]) -> bool:
    filled = [_cell(cell) for cell in cells if _cell(cell) not in ("", "-")]
    return bool(filled) and all(_NUMBER.fullmatch(cell) for cell in filled)


def _cell(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:.4g}"
    return "" if cell is None else html.escape(escape_unprintable(str(cell)))  # one line: a token may be "\n"


def _picture(picture: Picture, folder: Path) -> str:
    path = folder / picture.path  # an absolute path stays what it is
    try:
        place = path.resolve().relative_to(folder.resolve())
    except ValueError:
        place = None
    if place is None or not path.is_file():
        raise InputError(
            f"picture {str(picture.path)!r} is not in {str(folder)!r}; save it there before the page is written"
        )
    kinds = [kind for kind in (".png", ".svg", ".pdf") if path.with_suffix(kind).is_file()]
    links = " ".join(f'<a href="{_url(place.with_suffix(kind))}">{kind[1:].upper()}</a>' for kind in kinds)
    return (
        f'<figure>\n<img src="{_url(place)}" alt="{_text(picture.caption)}" loading="lazy">\n'
        f"<figcaption>{_text(picture.caption)} <span>{links}</span></figcaption>\n</figure>"
    )


def _url(place: Path) -> str:
    # the leading ./ keeps a name with a colon from being read as a scheme
    return html.escape("./" + quote(place.as_posix()))


def _text(text: str) -> str:
    return html.escape(escape_unprintable(text, keep="\n\t"))
