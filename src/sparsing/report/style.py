"""How every figure looks: sizes, colours, fonts, and the one way a figure is written.

Colours are those of Okabe and Ito (2008), which colour-blind readers can tell apart. A figure is made inside
`styled()`, without pyplot, so that no setting of the caller's matplotlib shows in it and none is changed.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.style
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, Colormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

from sparsing.base.results import write_atomic
from sparsing.errors import InputError
from sparsing.report.labels import font_families

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

WIDTH = 6.6
"""Inches; the width of a text column."""
DPI = 150
INK, MUTED, FAINT = "#222222", "#666666", "#d9d9d9"
"""Text, secondary text and lines, grid."""
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P")
"""Lines differ by marker too, for a print in grey."""
FORMATS = ("png", "svg")

_RC: dict[str, Any] = {
    "figure.facecolor": "white",
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # a token or a model name may hold dollar signs
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
    "svg.hashsalt": "sparsing",  # the same result gives the same file
    "savefig.dpi": DPI,
}


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """The project's settings for the time of a block, or of a function when used as `@styled()`."""
    with matplotlib.style.context(["default", {**_RC, "font.family": font_families()}]):
        yield


def new_figure(height: float, title: str, subtitle: str = "") -> Figure:
    """An empty figure of the standard width with its title, `height` in inches; call it inside `styled()`."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    if subtitle:
        figure.text(0.01, 0.01, subtitle, fontsize=7.5, color=MUTED, ha="left", va="bottom")
        figure.get_layout_engine().set(rect=(0, 0.2 / height, 1, 1 - 0.2 / height))  # pyright: ignore
    return figure


def save(figure: Figure, folder: str | Path, name: str) -> list[Path]:
    """Write `name.png` and `name.svg` into `folder`, each whole or not at all.

    Raises:
        InputError: the folder cannot be written or the disk is full.
    """
    return [save_image(figure, Path(folder) / f"{name}.{suffix}") for suffix in FORMATS]


def save_image(figure: Figure, path: str | Path) -> Path:
    """Write one picture, as .png, .svg, .pdf or .jpg by its suffix, whole or not at all.

    Raises:
        InputError: another suffix, an unwritable folder, a full disk.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    known = {
        "png": {},
        "jpg": {"pil_kwargs": {"quality": 92}},
        "svg": {"metadata": {"Date": None}},
        "pdf": {},
    }
    known["jpeg"] = known["jpg"]
    if kind not in known:
        raise InputError(
            f"cannot write a picture as {path.name!r}; end it in one of {', '.join(sorted(known))}"
        )
    with styled():  # ticks are made when drawn, and take their style then
        write_atomic(path, lambda temporary: figure.savefig(temporary, format=kind, **known[kind]))
    return path


def depth_colours(n_layers: int) -> Colormap:
    """One colour per layer, from the first (dark) to the last; too light ones are left out."""
    import matplotlib

    return ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0, 0.87, n_layers)))


def whole_ticks(axes: Axes, count: int, which: str = "x") -> None:
    """Ticks at 0 to `count - 1`, or at round numbers among them when they are many."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    few = FixedLocator(range(count))
    axis.set_major_locator(few if count <= 12 else MaxNLocator(nbins=12, integer=True, steps=[1, 2, 5, 10]))
    (axes.set_xlim if which == "x" else axes.set_ylim)(-0.5, count - 0.5)


def line_width(n_layers: int) -> float:
    """Thinner where many lines lie over each other."""
    return 1.4 if n_layers <= 12 else 0.7


def depth_bar(figure: Figure, axes: Axes, n_layers: int) -> None:
    """The colours of the layers; nothing for a single layer."""
    if n_layers > 1:
        norm = BoundaryNorm(np.arange(n_layers + 1) - 0.5, n_layers)
        colours = ScalarMappable(norm, depth_colours(n_layers))
        bar = figure.colorbar(colours, ax=axes, label="layer", pad=0.015, aspect=25)
        bar.set_ticks(sorted({round(at) for at in np.linspace(0, n_layers - 1, min(n_layers, 8))}))
        bar.minorticks_off()


def plain_numbers(axis: Axis, *, unit: float = 1) -> None:
    """Write ticks as numbers of this unit, also on a log axis, whose own labels need mathtext."""
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
    """A bar from low to high at each place; what has no interval, or not a finite one, gets none."""
    pairs = zip(at, intervals or (), strict=False)
    known = [(place, *bounds) for place, bounds in pairs if bounds is not None and is_interval(bounds)]
    if known:
        draw = axes.hlines if horizontal else axes.vlines
        draw(*zip(*known, strict=True), colors=colour, linewidth=width, zorder=2)


def is_interval(bounds: Sequence[float | None] | None) -> bool:
    """True for two finite numbers; a single window has no interval (None, or NaN once loaded)."""
    return bounds is not None and all(value is not None and math.isfinite(value) for value in bounds)
