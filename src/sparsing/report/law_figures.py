"""Pictures of fitted laws: curve with bands, straight-line view, residuals, profile, all series in one.

Drawn with matplotlib's own `Figure`, so no window system is asked for. Colours are Okabe and Ito's, which
colour-blind readers can tell apart; line styles and markers differ too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from sparsing.base.results import write_atomic
from sparsing.laws.coefficient_intervals import curve_interval, prediction_interval
from sparsing.laws.lawfit import LawFit

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#666666",
)
CYCLE = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY)
MARKERS = ("o", "s", "^", "D", "v", "p")
AHEAD = 3.0
"""The curve is drawn to this many times the last tokens."""


def law_figure(fit: LawFit) -> Figure:
    """Four views of one fit, 11 x 8 inches."""
    figure = Figure(figsize=(11, 8), layout="constrained")
    axes = figure.subplots(2, 2)
    draw_curve(axes[0, 0], fit)
    draw_linearised(axes[0, 1], fit)
    draw_residuals(axes[1, 0], fit)
    draw_profile(axes[1, 1], fit)
    figure.suptitle(f"{fit.name}: {fit.law.title}, {fit.equation}", fontsize=12)
    return figure


def draw_curve(axes: Axes, fit: LawFit) -> None:
    """Points, the law, the interval of the law and of new measurements, up to three times the last tokens."""
    tokens = fit.variable == "tokens"
    x, y = _all(fit)
    first, last = fit.kept_x[0], fit.kept_x[-1]
    grid = np.geomspace(first, AHEAD * last, 24) if tokens else np.linspace(first, last, 80)
    fitted = fit.fitted()
    ends = [curve_interval(fitted, at, fit.level) for at in grid]
    law = np.array(ends)
    new = np.array(
        [prediction_interval(fitted, at, fit.level, end) for at, end in zip(grid, ends, strict=True)]
    )
    fine = np.geomspace(x[0], grid[-1], 400)
    axes.fill_between(grid, *new.T, color=SKY, alpha=0.25, lw=0, label=f"{fit.level:.0%} of new measurements")
    axes.fill_between(
        grid, *law.T, color=BLUE, alpha=0.35, lw=0, label=f"{fit.level:.0%} interval of the law"
    )
    axes.plot(fine, fit.curve(fine), color=BLUE, lw=1.6, label=fit.law.title)
    _draw_points(axes, fit, x, y)
    if tokens:
        axes.axvline(x[-1], color=GREY, lw=1.0, ls=":", label="last point")
    if fit.law.limit and fit.key:
        axes.axhline(fit.key.value, color=GREEN, lw=1.2, ls="--", label=f"limit {100 * fit.key.value:.2f}%")
    shown = np.concatenate([y, fit.curve(grid)])
    room = 0.35 * np.ptp(shown)  # an open band would squeeze the points
    _limits(axes, np.append(shown, np.clip(law, shown.min() - room, shown.max() + room)))
    axes.set_title("law and points", loc="left", fontsize=10)
    axes.set_xlabel(_abscissa(fit))
    axes.set_ylabel("activation ratio (%)")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
    axes.legend(fontsize=8, frameon=False)


def draw_linearised(axes: Axes, fit: LawFit) -> None:
    """Coordinates in which the law is a straight line."""
    x, y = _all(fit)
    u, v, label_u, label_v = fit.law.linearised(x, y, fit.values)
    fine = np.geomspace(x[0], x[-1], 200)
    line_u, line_v, *_ = fit.law.linearised(fine, fit.curve(fine), fit.values)
    order = np.argsort(line_u)
    axes.plot(np.asarray(line_u)[order], np.asarray(line_v)[order], color=BLUE, lw=1.6)
    _draw_points(axes, fit, u, v)
    lost = int((~np.isfinite(v)).sum())
    note = f" ({lost} points beyond the limit have no place here)" if lost else ""
    axes.set_title(f"as a straight line{note}", loc="left", fontsize=10)
    axes.set_xlabel(label_u)
    axes.set_ylabel(label_v)


def draw_residuals(axes: Axes, fit: LawFit) -> None:
    """Measured minus law, with the band of the noise."""
    x, y = _all(fit)
    residual = 100 * (y - fit.curve(x))
    axes.axhspan(
        -200 * fit.noise_sd, 200 * fit.noise_sd, color=SKY, alpha=0.25, lw=0, label="2 sd of the noise"
    )
    axes.axhline(0, color=BLUE, lw=1.2)
    if fit.variable == "tokens":
        axes.plot(fit.kept_x, residual[fit.num_dropped :], color=GREY, lw=0.7)
    _draw_points(axes, fit, x, residual)
    _limits(axes, np.append(residual[fit.num_dropped :], [-230 * fit.noise_sd, 230 * fit.noise_sd]))
    what = "" if fit.variable == "width_depth" else f", correlation of neighbours {fit.rho:.2f}"
    axes.set_title(f"residuals{what}", loc="left", fontsize=10)
    axes.set_xlabel(_abscissa(fit))
    axes.set_ylabel("measured - law (percentage points)")
    axes.legend(fontsize=8, frameon=False)


def draw_profile(axes: Axes, fit: LawFit) -> None:
    """How much worse the fit gets when the limit (or the bottleneck) is held elsewhere."""
    if fit.key is None or not fit.profile_at:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "this form has no limit", ha="center", va="center", color=GREY)
        return
    scale = 100.0 if fit.law.limit else 1.0
    low, high = scale * fit.key.low, scale * fit.key.high
    axes.axvspan(low, high, color=SKY, alpha=0.25, lw=0, label=f"{fit.level:.0%} interval{_open(fit)}")
    if np.isfinite(fit.key.boot_low):
        axes.axvspan(
            scale * fit.key.boot_low,
            scale * fit.key.boot_high,
            ymax=0.04,
            color=ORANGE,
            label="block bootstrap",
        )
    axes.plot(scale * np.array(fit.profile_at), fit.profile_deviance, color=BLUE, lw=1.6)
    axes.axhline(fit.cutoff, color=RED, lw=1.2, ls="--", label=f"cutoff {fit.cutoff:.2f}")
    axes.axvline(
        scale * fit.key.value, color=GREEN, lw=1.2, ls=":", label=f"best {scale * fit.key.value:.4g}"
    )
    axes.set_ylim(0, min(3.2 * fit.cutoff, max(1.1 * max(fit.profile_deviance), 1.5 * fit.cutoff)))
    axes.set_title(f"profile of {fit.key.name}", loc="left", fontsize=10)
    axes.set_xlabel(f"{fit.key.name} (%)" if fit.law.limit else "bottleneck r0 (d_model / n_layers)")
    axes.set_ylabel("deviance")
    axes.legend(fontsize=8, frameon=False)


def series_figure(fits: Sequence[LawFit]) -> Figure:
    """All series, one row per form: the points with their laws, and the limits with their intervals."""
    forms = list(dict.fromkeys(fit.form for fit in fits))
    figure = Figure(figsize=(10.4, 4.4 * len(forms)), layout="constrained")
    grid = figure.subplots(len(forms), 2, squeeze=False)
    for (left, right), form in zip(grid, forms, strict=True):
        group = [fit for fit in fits if fit.form == form]
        _draw_group(left, group)
        if group[0].law.limit:
            _draw_limits(right, group)
        else:
            right.set_axis_off()
            right.text(0.5, 0.5, f"{group[0].law.title}: no limit", ha="center", va="center", color=GREY)
    return figure


def save_figure(figure: Figure, stem: str | Path) -> list[Path]:
    """Write `<stem>.png` (150 dpi) and `<stem>.svg`.

    Raises:
        InputError: the folder is not writable or the disk is full.
    """
    paths = [Path(f"{stem}.png"), Path(f"{stem}.svg")]
    for path in paths:
        kind = path.suffix[1:]
        write_atomic(path, lambda temporary, kind=kind: figure.savefig(temporary, format=kind, dpi=150))
    return paths


def _draw_group(axes: Axes, fits: Sequence[LawFit]) -> None:
    for index, fit in enumerate(fits):
        colour, marker = CYCLE[index % len(CYCLE)], MARKERS[index % len(MARKERS)]
        x, y = _all(fit)
        k = fit.num_dropped
        fine = np.geomspace(fit.kept_x[0], x[-1], 200)
        axes.plot(fine, 100 * fit.curve(fine), color=colour, lw=1.4)
        axes.plot(x[k:], 100 * y[k:], marker, color=colour, ms=3.5, ls="none", label=fit.name)
        axes.plot(x[:k], 100 * y[:k], marker, mfc="none", mec=colour, ms=3.5, ls="none")
    axes.set_title(f"{fits[0].law.title} (open: left out)", loc="left", fontsize=10)
    axes.set_xlabel(_abscissa(fits[0]))
    axes.set_ylabel("activation ratio (%)")
    axes.legend(fontsize=8, frameon=False)


def _draw_limits(axes: Axes, fits: Sequence[LawFit]) -> None:
    """Intervals as bars; an open end reaches the edge of the picture as an arrow."""
    span = [100 * value for fit in fits if fit.key for value in _closed_ends(fit)]
    pad = 0.15 * (max(span) - min(span)) + 0.2
    left, right = max(min(span) - pad, 0.0), min(max(span) + pad, 100.0)
    for row, fit in enumerate(fits):
        key = fit.key
        assert key is not None
        colour = BLUE if fit.identified else RED
        fill = colour if fit.identified else "white"
        low = 100 * key.low if key.low_closed else left
        high = 100 * key.high if key.high_closed else right
        axes.plot([low, high], [row, row], color=colour, lw=2.5)
        axes.plot(
            [100 * key.value], [row], "o" if fit.identified else "s", color=colour, mfc=fill, mew=1.8, ms=7
        )
        if not key.low_closed:
            axes.plot([low], [row], "<", color=colour, ms=8)
        if not key.high_closed:
            axes.plot([high], [row], ">", color=colour, ms=8)
    axes.plot([], [], "-o", color=BLUE, ms=7, label="identified")
    axes.plot([], [], "-s", color=RED, mfc="white", mew=1.8, ms=7, label="not identified")
    axes.set_yticks(range(len(fits)), [fit.name for fit in fits])
    axes.set_ylim(len(fits) - 0.4, -0.6)
    axes.set_xlim(left - 0.02 * (right - left), right + 0.02 * (right - left))
    axes.set_title(f"limit A0, {fits[0].level:.0%} intervals", loc="left", fontsize=10)
    axes.set_xlabel("A0 (%)")
    axes.grid(axis="x", color="#dddddd", lw=0.6)
    axes.legend(fontsize=8, frameon=False)


def _closed_ends(fit: LawFit) -> list[float]:
    key = fit.key
    assert key is not None
    return [key.value, *([key.low] if key.low_closed else []), *([key.high] if key.high_closed else [])]


def _all(fit: LawFit) -> tuple[np.ndarray, np.ndarray]:
    unit = fit.kept_x[-1] / fit.x[-1]
    return np.array(fit.x) * unit, np.array(fit.ratio)


def _draw_points(axes: Axes, fit: LawFit, x: np.ndarray, y: np.ndarray) -> None:
    k = fit.num_dropped
    axes.plot(x[k:], y[k:], "o", color="black", ms=3.5, ls="none", label="measured")
    if k:
        axes.plot(x[:k], y[:k], "o", mfc="none", mec="black", ms=4, ls="none", label=f"left out ({k})")


def _limits(axes: Axes, values: np.ndarray) -> None:
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    pad = 0.08 * (high - low)
    axes.set_ylim(low - pad, high + pad)


def _abscissa(fit: LawFit) -> str:
    return "training tokens (billion)" if fit.variable == "tokens" else "d_model / n_layers"


def _open(fit: LawFit) -> str:
    return "" if fit.key is None or fit.key.closed else ", open"
