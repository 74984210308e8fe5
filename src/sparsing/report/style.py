"""The look of every figure and of the page: colours, sizes, fonts, and the function that writes a figure to a file.

Colours follow Okabe and Ito (2008), which colour-blind readers can tell apart. A figure is made inside `styled()`
and without pyplot, so that the caller's matplotlib settings neither affect it nor change.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, Colormap, ListedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from sparsing.base.results import write_atomic
from sparsing.errors import InputError
from sparsing.report.chart import is_interval
from sparsing.report.labels import font_families

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

WIDTH = 6.6
"""Inches; the width of a text column."""
DPI = 150
FORMATS = ("png", "svg")

THEMES = {
    "page": ("#ffffff", "#12161b"),
    "ink": ("#1f2328", "#e4e8ec"),
    "muted": ("#59636e", "#9aa5b1"),
    "line": ("#d8dee4", "#343c45"),
    "panel": ("#f6f8fa", "#1b2128"),
    "link": ("#0060a0", "#6cb8f0"),
    "warn": ("#8a4600", "#f0b56a"),
    "warn-panel": ("#fff6e8", "#2b2418"),
    "accent": ("#0072b2", "#56b4e9"),
    # the palette: Okabe and Ito's colours, the pale ones darker on white and all lighter on a dark page
    "c0": ("#0072b2", "#56b4e9"),
    "c1": ("#d55e00", "#ff8c42"),
    "c2": ("#009e73", "#2fc79b"),
    "c3": ("#b8578f", "#e39ac4"),
    "c4": ("#b07800", "#e6b43c"),
    "c5": ("#3b8fc2", "#8ecae6"),
    "c6": ("#6a51a3", "#b3a2e0"),
    "c7": ("#555555", "#b0b0b0"),
}
"""Colours by their name in `assets/page.css`: on a light page and in image files, and on a dark page."""
PALETTE = tuple(THEMES[f"c{index}"][0] for index in range(8))
INK, MUTED, FAINT = THEMES["ink"][0], THEMES["muted"][0], THEMES["line"][0]
"""Text, secondary text and lines, grid."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""Lines also differ by marker, for prints without colour."""
LIGHT_DEPTHS, DARK_DEPTHS = (0.0, 0.87), (0.22, 1.0)
"""Part of the viridis colour map used for layers; the rest stands out too little from a white or a dark page."""

_RC: dict[str, Any] = {
    "figure.facecolor": "white",
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # a token or a model name may contain dollar signs
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.titlecolor": MUTED,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "svg.hashsalt": "sparsing",  # the same result gives the same bytes
    "savefig.dpi": DPI,
}


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Applies the project's matplotlib settings inside a `with` block, or to a function as `@styled()`."""
    with matplotlib.style.context(["default", {**_RC, "font.family": font_families()}]):
        yield


def new_figure(height: float, title: str, subtitle: str = "", *, width: float = WIDTH) -> Figure:
    """An empty figure with a title above and a subtitle below, sizes in inches. Call it inside `styled()`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    if subtitle:
        figure.text(0.01, 0.01, subtitle, fontsize=7.5, color=MUTED, ha="left", va="bottom")
        # the constrained layout does not know of the subtitle, so its 0.2 inches are reserved here
        figure.set_layout_engine("constrained", rect=(0, 0.2 / height, 1, 1 - 0.2 / height))
    return figure


def save_image(figure: Figure, path: str | Path) -> Path:
    """Writes one image as .png, .svg, .pdf or .jpg by the suffix of `path`; a failed write leaves no partial file.

    Raises:
        InputError: if the suffix is another one, the folder is not writable or the disk is full.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    options = {
        "png": {},
        "jpg": {"pil_kwargs": {"quality": 92}},
        "svg": {"metadata": {"Date": None}},  # a date would make the bytes differ
        "pdf": {},
    }
    options["jpeg"] = options["jpg"]
    if kind not in options:
        raise InputError(
            f"cannot write an image as {path.name!r}; use one of the suffixes {', '.join(sorted(options))}"
        )
    with styled():  # matplotlib makes ticks when it draws, and they take the style of that moment
        write_atomic(path, lambda temporary: figure.savefig(temporary, format=kind, **options[kind]))
    return path


def depth_colours(count: int) -> Colormap:
    """One colour for each of `count` layers, from the first (dark) to the last (light)."""
    return ListedColormap(matplotlib.colormaps["viridis"](np.linspace(*LIGHT_DEPTHS, count)))


def depth_stops(count: int = 8) -> list[str]:
    """`count` colours of the whole viridis map as `#rrggbb`, for the page to interpolate between."""
    return [to_hex(colour) for colour in matplotlib.colormaps["viridis"](np.linspace(0, 1, count))]


def depth_bar(figure: Figure, axes: Axes, n_layers: int) -> None:
    """Adds a colour bar that names the layers."""
    norm = BoundaryNorm(np.arange(n_layers + 1) - 0.5, n_layers)
    colours = ScalarMappable(norm, depth_colours(n_layers))
    bar = figure.colorbar(colours, ax=axes, label="layer", pad=0.015, aspect=25)
    bar.set_ticks(sorted({round(at) for at in np.linspace(0, n_layers - 1, min(n_layers, 8))}))
    bar.minorticks_off()


def plain_numbers(axis: Axis, *, unit: float = 1) -> None:
    """Labels ticks with plain numbers in multiples of `unit`, also on a log axis, whose own labels need mathtext."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / unit:g}"))
    axis.set_minor_formatter(NullFormatter())


def whiskers(
    axes: Axes,
    at: Sequence[float],
    intervals: Sequence[Sequence[float | None] | None] | None,
    *,
    colour: str,
    horizontal: bool = False,
    width: float = 1.2,
) -> None:
    """Draws a bar from low to high at each place; places without a finite interval get none."""
    pairs = zip(at, intervals or (), strict=False)
    known = [(place, *bounds) for place, bounds in pairs if bounds is not None and is_interval(bounds)]
    if known:
        draw = axes.hlines if horizontal else axes.vlines
        draw(*zip(*known, strict=True), colors=colour, linewidth=width, zorder=2)
