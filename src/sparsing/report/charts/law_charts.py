"""Charts of fitted laws: all series with their limits, and four views of each fit.

The views of a fit are the curve with its bands, the coordinates in which the law is a straight line, the residuals,
and the profile of the coefficient that the verdict is about.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sparsing.laws.coefficient_intervals import intervals_over_forms
from sparsing.report.chart import (
    NEUTRAL,
    Axis,
    Band,
    Chart,
    Mark,
    Mode,
    Picture,
    Series,
    padded_range,
    scales_for,
)

if TYPE_CHECKING:
    from sparsing.laws.lawfit import Estimate, LawFit

LINE_POINTS = 200
AHEAD = 3.0
"""Laws along training are drawn up to this multiple of the last measured tokens."""
BLUE, VERMILION, SKY, GREY = 0, 1, 5, NEUTRAL
"""Palette indices of the four views."""


def laws_picture(laws: Sequence[LawFit]) -> Picture:
    """All series with their laws, and the limits with their intervals."""
    return Picture(title="Fitted laws", charts=laws_charts(laws), columns=2)


def laws_charts(laws: Sequence[LawFit]) -> list[Chart]:
    """For each variable a chart of points and laws, followed by the limits of the laws that have one."""
    charts = []
    for variable in dict.fromkeys(law.variable for law in laws):
        chosen = [law for law in laws if law.variable == variable]
        charts.append(_overview_chart(chosen, tokens=variable == "tokens"))
        limits = [(law, key) for law in chosen if law.law.limit and (key := law.key_over_forms)]
        if limits:
            charts.append(_limits_chart(limits))
    return charts


def _overview_chart(laws: Sequence[LawFit], *, tokens: bool) -> Chart:
    verdicts = " ".join(f"{law.name}: {law.verdict}." for law in laws if law.verdict)
    ahead = f" Laws are drawn up to {AHEAD:g} times the last tokens." if tokens else ""
    label = "training tokens" if tokens else "d_model / n_layers"
    scales = scales_for(x for law in laws for x in law.x)
    return Chart(
        title="Laws along training" if tokens else "Laws over width and depth",
        note=f"Points are measured, lines are fitted laws; hollow points were left out of the fit.{ahead} {verdicts}",
        x=Axis(label=label, scales=scales, compact=tokens),
        y=Axis(label="activation ratio"),
        series=[
            part for index, law in enumerate(laws) for part in _overview_series(law, index, tokens=tokens)
        ],
    )


def _overview_series(law: LawFit, colour: int, *, tokens: bool) -> list[Series]:
    unit = law.x[-1] / law.kept_x[-1]  # of the law's own abscissa
    grid = np.geomspace(law.kept_x[0], law.kept_x[-1] * (AHEAD if tokens else 1), LINE_POINTS)
    title = f"{law.name}: {law.law.title}"
    line = Series(name=title, x=grid * unit, y=law.curve(grid), mode="lines", colour=colour)
    x, ratios = np.array(law.x), np.array(law.ratio)
    return [line, *_point_series(law, x, ratios, name=law.name, colour=colour)]


def _limits_chart(limits: Sequence[tuple[LawFit, Estimate]]) -> Chart:
    closed = [value for _, key in limits for value in _closed_ends(key)]
    padding = 0.15 * (max(closed) - min(closed)) + 0.002
    rows = list(enumerate(limits))
    parts = [
        _limit_series("identified", [(i, key) for i, (law, key) in rows if law.identified], "points", BLUE),
        _limit_series(
            "not identified", [(i, key) for i, (law, key) in rows if not law.identified], "open", VERMILION
        ),
    ]
    return Chart(
        title="Limits of the laws",
        note=f"Ratio after endless training with its {limits[0][0].level:.0%} interval. A bar that reaches the edge of"
        " the chart has an open end there. If the data chose the law, the interval covers every law that they do not"
        " refute.",
        # an open interval ends at the bound of the fitter, far outside the closed ends
        x=Axis(
            label="limit A0, activation ratio",
            low=max(min(closed) - padding, 0.0),
            high=min(max(closed) + padding, 1.0),
        ),
        y=Axis(label="series", names=[law.name for law, _ in limits]),
        series=[part for part in parts if len(part.x)],
    )


def _limit_series(name: str, rows: Sequence[tuple[int, Estimate]], mode: Mode, colour: int) -> Series:
    return Series(
        name=name,
        x=[key.value for _, key in rows],
        y=[row for row, _ in rows],
        x_low=[key.low for _, key in rows],
        x_high=[key.high for _, key in rows],
        mode=mode,
        colour=colour,
    )


def _closed_ends(key: Estimate) -> list[float]:
    return [key.value, *([key.low] if key.low_closed else []), *([key.high] if key.high_closed else [])]


def law_picture(fit: LawFit) -> Picture:
    """Four views of one fit; three if the law has no coefficient with a profile."""
    title = f"{fit.name}: {fit.law.title}"
    return Picture(title=title, subtitle=fit.equation, charts=law_views(fit), columns=2)


def law_views(fit: LawFit) -> list[Chart]:
    """The curve, the straight line, the residuals and, if there is one, the profile."""
    profile = [_profile_chart(fit, fit.key)] if fit.key is not None and fit.profile_at else []
    return [_curve_chart(fit), _straight_chart(fit), _residual_chart(fit), *profile]


def _curve_chart(fit: LawFit) -> Chart:
    """The points and the law with two bands: of the law itself, and of new measurements."""
    tokens = fit.variable == "tokens"
    x, y = _all_points(fit)
    first, last = fit.kept_x[0], fit.kept_x[-1]
    # each end of a band is a search of its own, so bands have fewer points than the curve
    grid = np.geomspace(first, AHEAD * last, 24) if tokens else np.linspace(first, last, 80)
    fits = fit.curve_fits()
    # (num_points, law and new measurements, low and high end)
    ends = np.array([intervals_over_forms(fits, at, fit.level) for at in grid])
    law, new = ends[:, 0], ends[:, 1]
    over = f" over {len(fits)} forms" if len(fits) > 1 else ""
    fine = np.geomspace(x[0], grid[-1], LINE_POINTS)
    marks = [Mark(axis="x", at=float(x[-1]), label="last point")] if tokens else []
    note = ""
    if fit.law.limit and fit.key:
        # named in the caption: a label beside the line would lie on the curve that approaches it
        marks.append(Mark(at=fit.key.value))
        note = f"Horizontal line: the limit {fit.key.value:.2%}."
    shown = np.concatenate([y, fit.curve(grid)])
    # an interval with an open end would squeeze the points
    room = 0.35 * np.ptp(shown)
    low, high = padded_range(np.append(shown, np.clip(law, shown.min() - room, shown.max() + room)))
    line = Series(name=fit.law.title, x=fine, y=fit.curve(fine), mode="lines", colour=BLUE)
    return Chart(
        title="Law and points",
        note=note,
        x=Axis(label=_abscissa(fit), scales=scales_for(x)[::-1]),
        y=Axis(label="activation ratio", low=low, high=high),
        series=[line, *_point_series(fit, x, y)],
        bands=[
            Band(
                name=f"{fit.level:.0%} of new measurements{over}",
                x=grid,
                low=new[:, 0],
                high=new[:, 1],
                colour=SKY,
            ),
            Band(
                name=f"{fit.level:.0%} interval of the law{over}",
                x=grid,
                low=law[:, 0],
                high=law[:, 1],
                colour=BLUE,
            ),
        ],
        marks=marks,
    )


def _straight_chart(fit: LawFit) -> Chart:
    """Points and law in the coordinates in which the law is a straight line."""
    x, y = _all_points(fit)
    points = fit.law.linearise(x, y, fit.values)
    fine = np.geomspace(x[0], x[-1], LINE_POINTS)
    line = fit.law.linearise(fine, fit.curve(fine), fit.values)
    order = np.argsort(line.u)
    lost = int((~np.isfinite(points.v)).sum())
    return Chart(
        title="As a straight line",
        note=f"{lost} points beyond the limit have no position here." if lost else "",
        x=Axis(label=points.u_label),
        y=Axis(label=points.v_label),
        series=[
            Series(name=fit.law.title, x=line.u[order], y=line.v[order], mode="lines", colour=BLUE),
            *_point_series(fit, points.u, points.v),
        ],
    )


def _residual_chart(fit: LawFit) -> Chart:
    """Measured minus law, with the band of the noise."""
    x, y = _all_points(fit)
    residual = 100 * (y - fit.curve(x))
    noise = 100 * fit.noise_sd
    low, high = padded_range([*residual[fit.num_dropped :], -2.3 * noise, 2.3 * noise])
    tokens = fit.variable == "tokens"
    return Chart(
        title="Residuals",
        note="Shaded: two standard deviations of the noise."
        + (f" Correlation of neighbouring points: {fit.rho:.2f}." if tokens else ""),
        x=Axis(label=_abscissa(fit), scales=scales_for(x)[::-1]),
        y=Axis(label="measured - law, percentage points", low=low, high=high),
        series=_point_series(fit, x, residual, joined=tokens),
        marks=[Mark(at=0.0, low=-2 * noise, high=2 * noise)],
    )


def _profile_chart(fit: LawFit, key: Estimate) -> Chart:
    """Deviance of the fit when the limit (or the bottleneck) is held at other values."""
    ends = "" if key.closed else ", open"
    best = f"best {key.value:.4g}, {fit.level:.0%} interval{ends}"
    series = [
        Series(name="deviance", x=fit.profile_at, y=fit.profile_deviance, mode="lines", colour=BLUE),
    ]
    if np.isfinite(key.boot_low):
        bootstrap = Series(
            name="block bootstrap",
            x=[key.value],
            y=[0.0],
            x_low=[key.boot_low],
            x_high=[key.boot_high],
            mode="points",
            colour=VERMILION,
        )
        series.append(bootstrap)
    return Chart(
        title=f"Profile of {key.name}",
        note="The interval assumes that this form is right." if fit.form_choice else "",
        x=Axis(
            label=f"{key.name}, activation ratio" if fit.law.limit else "bottleneck r0, d_model / n_layers"
        ),
        y=Axis(
            label="deviance",
            low=-0.1 * fit.cutoff,
            # far from the best value the deviance is large and of no interest
            high=min(3.2 * fit.cutoff, max(1.1 * max(fit.profile_deviance), 1.5 * fit.cutoff)),
        ),
        series=series,
        marks=[
            Mark(axis="x", at=key.value, low=key.low, high=key.high, label=best),
            Mark(at=fit.cutoff, label=f"cutoff {fit.cutoff:.2f}"),
        ],
    )


def _all_points(fit: LawFit) -> tuple[np.ndarray, np.ndarray]:
    """Abscissas in the unit of the law and ratios, those left out of the fit included, shape `(num_points,)`."""
    unit = fit.kept_x[-1] / fit.x[-1]
    return np.array(fit.x) * unit, np.array(fit.ratio)


def _point_series(
    fit: LawFit,
    x: np.ndarray,
    y: np.ndarray,
    *,
    name: str = "measured",
    colour: int = GREY,
    joined: bool = False,
) -> list[Series]:
    """The points of the fit, then, hollow, the points left out of it."""
    k = fit.num_dropped
    kept = Series(name=name, x=x[k:], y=y[k:], mode="both" if joined else "points", colour=colour)
    if not k:
        return [kept]
    left_out = f"{name}, left out ({k})"
    return [kept, Series(name=left_out, x=x[:k], y=y[:k], mode="open", colour=colour, listed=False)]


def _abscissa(fit: LawFit) -> str:
    return "training tokens, billions" if fit.variable == "tokens" else "d_model / n_layers"
