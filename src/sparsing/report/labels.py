"""Labels for figures and pages made from text of any origin: tokens, file names and model names.

Such text may contain newlines, control characters and any script. Characters that cannot be shown become backslash
escapes; none is dropped.
"""

from __future__ import annotations

import functools
from pathlib import PurePath
from typing import TYPE_CHECKING

from matplotlib import font_manager

if TYPE_CHECKING:
    from sparsing.base.provenance import Provenance

BASE_FONT = "DejaVu Sans"
"""Part of matplotlib, so every machine has it."""
CJK_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "PingFang SC",
    "Hiragino Sans GB",
    "SimHei",
)
"""Fonts for Chinese, in order of preference; the first installed font complements the base font."""
ELLIPSIS = "\u2026"
_ESCAPES = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


@functools.cache
def font_families() -> list[str]:
    """The base font, followed by a font for Chinese if the machine has one."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return [BASE_FONT, *[name for name in CJK_FONTS if name in installed][:1]]


def escape_unprintable(text: str, *, keep: str = "") -> str:
    """The text with escapes for control characters, lone surrogates and invisible marks, except those in `keep`."""
    return "".join(char if char in keep or char.isprintable() else _escape(char) for char in text)


def token_label(text: str, *, length: int = 14) -> str:
    """A token as a tick label: one line, at most `length` characters, and only glyphs that the fonts have.

    A leading space before other text is dropped. A token of spaces alone is shown as U+2423 (open box) signs.
    """
    if len(text) > 1 and text[0] == " " and text[1] != " ":
        text = text[1:]
    text = drawable(text.replace(" ", "\u2423") if not text.strip(" ") else text)
    return text if len(text) <= length else text[: length - 1] + ELLIPSIS


def drawable(text: str) -> str:
    """The text with an escape for each character that is not printable or has no glyph in the fonts."""
    return "".join(
        char if char.isprintable() and (char.isascii() or _has_glyph(char)) else _escape(char)
        for char in text
    )


def model_label(provenance: Provenance, *, length: int = 48) -> str:
    """Short name of the model: the last two parts of its path, since many models have the same last part."""
    label = drawable("/".join(PurePath(provenance.model).parts[-2:])) or "model"
    return label if len(label) <= length else label[: length - 1] + ELLIPSIS


def origin_line(provenance: Provenance, num_tokens: int, *facts: str) -> str:
    """Model, further facts, and tokens on one line, for the foot of a figure."""
    corpus = PurePath(provenance.corpus).name[:40]
    tokens = f"{num_tokens:,} tokens" + (f" of {corpus}" if corpus else "")
    return "  |  ".join([model_label(provenance), *facts, tokens])


def _escape(char: str) -> str:
    return _ESCAPES.get(char) or char.encode("unicode_escape", "surrogatepass").decode("ascii")


def _has_glyph(char: str) -> bool:
    return any(ord(char) in _glyphs(family) for family in font_families())


@functools.cache
def _glyphs(family: str) -> frozenset[int]:
    return frozenset(font_manager.get_font(font_manager.findfont(family)).get_charmap())
