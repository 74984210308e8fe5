"""The paper's four findings (Sparsing Law, arXiv 2411.02335), tested on the finished cells with 95% intervals.

`evaluate_findings` is the entry point. The answer to each finding is one of three, by a rule that this file fixes:
the finding shows up, it does not show up, or the cells leave it undecided.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np
from cells import CELLS, SCALES, SEEDED, SHAPES, CellResult

from sparsing.laws import FORMS, fit, make_points
from sparsing.laws.joint_fit import fit_shared
from sparsing.laws.lawfit import Estimate, LawFit
from sparsing.laws.points import Points
from sparsing.laws.solve import Problem, solve

YES, NO, OPEN = "shows up", "does not show up", "undecided"
ACTS = {"relu": "ReLU", "silu": "SiLU"}
WITHOUT_BEND = {"log_line": "a straight line in the logarithm", "power": "a power law"}
"""Curves with two coefficients that the ratio may follow over width and depth instead: name of the form, and words."""
LEVEL = 0.95
WARM = 200_000
"""Points with fewer training tokens are left out, since the first of them lie in the learning-rate warm-up."""
LAST = 5
"""A cell's final ratio is the mean over this many last points, the same points on which its CETT was found."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One finding of the paper and the answer of this study."""

    title: str
    claim: str
    """The finding as the paper states it."""
    rule: str
    """The condition under which the finding shows up, and the condition under which it does not."""
    answer: str
    lines: tuple[str, ...]
    """The results, one line per comparison."""
    missing: tuple[str, ...]
    """Cells that the finding would use and that are not finished."""


def load_cells() -> dict[str, CellResult]:
    """The finished cells by name."""
    return {cell.name: CellResult.load(cell.result) for cell in CELLS if cell.result.exists()}


def evaluate_findings(cells: dict[str, CellResult]) -> list[Finding]:
    """The four findings, from the finished cells by name."""
    scales, shapes = ([*first_seeds(cells.values(), presets)] for presets in (SCALES, SHAPES))
    return [
        direction(scales),
        equal_quality(scales),
        width_depth([cell for cell in shapes if cell.hidden_act == "relu"], seed_spread(cells)),
        scale_limit(scales, seed_spread(cells)),
    ]


def direction(cells: Sequence[CellResult]) -> Finding:
    """Whether the ratio falls with data for ReLU and rises for SiLU, by the slope of a line in ln D."""
    slopes = [fit_slope(cell, fit_law(cell).num_dropped) for cell in cells]
    signs = [math.copysign(1, s.low) if s.low * s.high > 0 else 0 for s in slopes]
    wanted = [-1 if cell.hidden_act == "relu" else 1 for cell in cells]
    return Finding(
        title="ReLU falls and SiLU rises with training data",
        claim="The activation ratio of ReLU models decreases along training, that of SiLU models increases.",
        rule="The finding shows up if, in every cell, the slope of a line in the logarithm of the tokens has the"
        " paper's sign over its whole interval. The line is fitted to the points that the fit of the law keeps: points"
        f" from {WARM:,} tokens on, without the early points that BIC leaves out, as the paper leaves out its warm-up."
        " The finding does not show up if no slope has the paper's sign and at least one has the opposite sign.",
        answer=_answer(
            [s == w for s, w in zip(signs, wanted, strict=True)],
            [s == -w for s, w in zip(signs, wanted, strict=True)],
            _has_both_activations(cells),
        ),
        lines=tuple(_direction_line(cell, s) for cell, s in zip(cells, slopes, strict=True)),
        missing=_missing_cells(cells, SCALES, ("relu", "silu")),
    )


def _direction_line(cell: CellResult, kept: Estimate) -> str:
    """Both slopes of a cell in percentage points per doubling, and the first token count that the law keeps."""
    law = fit_law(cell)
    return (
        f"{label(cell)}: {_doubling(kept)} points per doubling of the tokens from"
        f" {law.x[law.num_dropped]:,.0f} tokens on; {_doubling(fit_slope(cell, 0))} from {WARM:,} on"
    )


def _doubling(s: Estimate) -> str:
    value, low, high = (_percentage_points(x * math.log(2)) for x in (s.value, s.low, s.high))
    return f"{value} [{low}, {high}]"


def equal_quality(cells: Sequence[CellResult]) -> Finding:
    """Whether ReLU is sparser at the same held-out loss, the lowest loss that both models reach."""
    gaps = [
        gap_at_equal_loss(relu, silu)
        for relu in cells
        for silu in cells
        if (relu.preset, relu.hidden_act, silu.hidden_act) == (silu.preset, "relu", "silu")
    ]
    return Finding(
        title="ReLU is sparser at equal quality",
        claim="At comparable loss ReLU models have a lower activation ratio than SiLU models.",
        rule="The finding shows up if, at every scale, the ratio of the ReLU model is below that of the SiLU model by"
        " more than the interval of the difference. Both ratios are taken at the lowest held-out loss that both"
        " models reach.",
        answer=_answer([gap.high < 0 for gap in gaps], [gap.low > 0 for gap in gaps], len(gaps) >= 2),
        lines=tuple(
            f"{gap.size}: at a loss of {gap.loss:.3f}, ReLU {100 * gap.relu:.2f}% and SiLU {100 * gap.silu:.2f}%;"
            f" difference {_percentage_points(gap.relu - gap.silu)} points"
            f" [{_percentage_points(gap.low)}, {_percentage_points(gap.high)}]"
            for gap in gaps
        ),
        missing=_missing_cells(cells, SCALES, ("relu", "silu")),
    )


def width_depth(cells: Sequence[CellResult], spread: float) -> Finding:
    """Whether the ratio rises linearly with width over depth up to a bottleneck, then stays flat.

    Args:
        spread: Standard deviation of the final ratio over seeds; NaN if unknown.
    """
    law = fit_shapes(cells)
    lines = [
        f"{cell.d_model}x{cell.n_layers} (ratio {width_over_depth(cell):.1f}):"
        f" {100 * last_ratio(cell):.2f}%, held-out loss {last_loss(cell):.3f}"
        for cell in sorted(cells, key=width_over_depth)
    ]
    answer = OPEN
    if law is not None:
        rise, bend = law.estimate("b"), law.estimate("r0")
        lines.append(
            f"rise below the bend: {100 * rise.value:.3g} points per unit of width over depth"
            f" [{100 * rise.low:.3g}, {100 * rise.high:.3g}]; bend at {_span(bend)}; {law.verdict}"
        )
        errors = errors_without_bend(law)
        others = ", ".join(
            f"{WITHOUT_BEND[name]} {_percentage_points(error)}" for name, error in errors.items()
        )
        lines.append(
            f"error of the fit, in points: linear, then flat {_percentage_points(law.rmse)}, {others}"
        )
        shows = rise.low > 0 and bend.closed and law.rmse < min(errors.values())
        answer = YES if shows else NO if _falls(cells) else OPEN
    if cells:
        ratios = [last_ratio(cell) for cell in cells]
        lines.append(
            f"all shapes lie within {_percentage_points(max(ratios) - min(ratios))} points; {_seeds_line(spread)}"
        )
    return Finding(
        title="The ratio rises linearly with width over depth up to a bottleneck",
        claim="At a fixed parameter count the activation ratio rises linearly with d_model / n_layers up to a"
        " bottleneck (114 at 0.1B), then stays flat.",
        rule=f"A line that turns flat is fitted to the final ratios (mean of the last {LAST} points). The finding shows"
        " up if the rise is above 0 over its interval, the interval of the bend is closed, and neither"
        f" {' nor '.join(WITHOUT_BEND.values())}, each with one coefficient less, has a smaller error."
        " It does not show up if the ratio falls with width over depth (rank correlation below -0.7).",
        answer=answer,
        lines=tuple(lines),
        missing=_missing_cells(cells, SHAPES, ("relu",)),
    )


def scale_limit(cells: Sequence[CellResult], spread: float) -> Finding:
    """Whether the limit of the law is the same at all scales.

    The intervals of the fits contain the noise of one run only, so a difference between scales counts only if it is
    larger than the spread over seeds.

    Args:
        spread: Standard deviation of the final ratio over seeds; NaN if unknown.
    """
    lines, answers = [], []
    for act in ACTS:
        series = [cell for cell in cells if cell.hidden_act == act]
        if len(series) < 2:
            continue
        fits = [fit_law(cell) for cell in series]
        test = fit_shared(fits, ["A0"])
        for cell, law in zip(series, fits, strict=True):
            limit = law.estimate("A0")
            lines.append(
                f"{label(cell)}: limit {100 * limit.value:.2f}% {_limit_span(limit)},"
                f" final ratio {100 * last_ratio(cell):.2f}%; {law.verdict}"
            )
        lines.append(
            f"{ACTS[act]}, one limit for all: {100 * test.values['A0']:.2f}%, p = {test.p_value:.2g}"
        )
        limits = [law.estimate("A0").value for law in fits]
        known, shared = all(law.identified for law in fits), test.p_value > 1 - LEVEL
        apart = max(limits) - min(limits) > 2 * spread  # False for an unknown spread, which is NaN
        answers.append(YES if known and shared else NO if known and apart else OPEN)
    if lines:
        lines.append(_seeds_line(spread))
    return Finding(
        title="The limit hardly depends on the scale",
        claim="At a similar width-depth ratio, models of all scales go to about the same activation ratio.",
        rule="The finding shows up if, for both activations, `sparsing fit` identifies the limit of the paper's law at"
        f" every scale, and a common limit is not rejected at {1 - LEVEL:.0%}. It does not show up if the limits are"
        " identified, a common limit is rejected, and the limits differ by more than twice the standard deviation"
        f" over seeds of {SEEDED}.",
        answer=answers[0] if len(answers) == len(ACTS) and len(set(answers)) == 1 else OPEN,
        lines=tuple(lines),
        missing=_missing_cells(cells, SCALES, ("relu", "silu")),
    )


def points_of(cell: CellResult) -> Points:
    """The points of a cell from `WARM` tokens on, in the form that the laws accept."""
    kept = [point for point in cell.track.points if point.tokens >= WARM]
    return make_points([p.tokens for p in kept], [p.activation_ratio for p in kept], name=label(cell))


def fit_law(cell: CellResult) -> LawFit:
    """The paper's law for the cell's activation; BIC decides how many early points are left out."""
    return fit(points_of(cell), cell.hidden_act, level=LEVEL, num_resamples=0)


def fit_slope(cell: CellResult, drop: int) -> Estimate:
    """Change of the ratio per unit of ln D, with an interval that accounts for correlated neighbours."""
    return fit(points_of(cell), "log_line", drop=drop, level=LEVEL, num_resamples=0).estimate("b")


def fit_shapes(cells: Sequence[CellResult]) -> LawFit | None:
    """The width-depth law (linear, then flat) fitted to the shapes; None for fewer than five shapes."""
    if len(cells) < 5:
        return None
    x, y = [width_over_depth(cell) for cell in cells], [last_ratio(cell) for cell in cells]
    points = make_points(x, y, name="width against depth", variable="width_depth")
    return fit(points, "bottleneck", drop=0, level=LEVEL, num_resamples=0)


def errors_without_bend(law: LawFit) -> dict[str, float]:
    """Root mean square error of each curve in `WITHOUT_BEND` on the points of a fit, a ratio like `law.rmse`."""
    x, y = law.kept_x, law.kept_ratio
    rss = {name: solve(Problem(form=FORMS[name], x=x, y=y)).rss for name in WITHOUT_BEND}
    return {name: math.sqrt(value / len(x)) for name, value in rss.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RatioGap:
    """Activation ratios of a ReLU and a SiLU model of one size at the same held-out loss."""

    size: str
    loss: float
    relu: float
    silu: float
    low: float
    """Lower end of the 95% interval of `relu - silu`, over windows; differences between seeds are not included."""
    high: float


def gap_at_equal_loss(relu: CellResult, silu: CellResult) -> RatioGap:
    """The ratios at the lowest loss that both models reach, interpolated between points along the loss."""
    loss = max(min(p.loss for p in cell.track.points) for cell in (relu, silu))
    (a, half_a), (b, half_b) = _ratio_at_loss(relu, loss), _ratio_at_loss(silu, loss)
    half = math.hypot(half_a, half_b)
    return RatioGap(size=size(relu), loss=loss, relu=a, silu=b, low=a - b - half, high=a - b + half)


def _ratio_at_loss(cell: CellResult, loss: float) -> tuple[float, float]:
    """The ratio at this held-out loss, and half the width of its interval."""
    points = sorted(cell.track.points, key=lambda p: p.loss)
    losses = [p.loss for p in points]
    intervals = [p.activation_ratio_interval for p in points]
    halves = [(interval[1] - interval[0]) / 2 for interval in intervals if interval is not None]
    return (
        float(np.interp(loss, losses, [p.activation_ratio for p in points])),
        float(np.interp(loss, losses, halves)),
    )


def last_ratio(cell: CellResult) -> float:
    """Mean activation ratio of the last points."""
    return float(np.mean([p.activation_ratio for p in cell.track.points[-LAST:]]))


def last_loss(cell: CellResult) -> float:
    """Mean held-out loss of the last points."""
    return float(np.mean([p.loss for p in cell.track.points[-LAST:]]))


def seed_spread(cells: dict[str, CellResult]) -> float:
    """Standard deviation of the last ratio over the seeds of the repeated ReLU point; NaN with fewer than two."""
    ratios = [last_ratio(c) for c in cells.values() if (c.preset, c.hidden_act) == (SEEDED, "relu")]
    return float(np.std(ratios, ddof=1)) if len(ratios) > 1 else math.nan


def first_seeds(cells: Iterable[CellResult], presets: Sequence[str]) -> list[CellResult]:
    """The cells of these presets with the first seed, in the order of the presets."""
    chosen = [cell for cell in cells if cell.preset in presets and cell.seed == 1]
    return sorted(chosen, key=lambda cell: (presets.index(cell.preset), cell.hidden_act))


def width_over_depth(cell: CellResult) -> float:
    """`d_model / n_layers`."""
    return cell.d_model / cell.n_layers


def size(cell: CellResult) -> str:
    """Number of parameters as text, e.g. `0.31M`."""
    return f"{cell.num_parameters / 1e6:.2f}M"


def label(cell: CellResult) -> str:
    """Activation and size as text."""
    return f"{ACTS[cell.hidden_act]} {size(cell)}"


def _seeds_line(spread: float) -> str:
    known = (
        "an unknown amount"
        if math.isnan(spread)
        else f"{_percentage_points(spread)} points (standard deviation)"
    )
    return f"seeds of {SEEDED}, ReLU, scatter by {known}"


def _answer(supports: Sequence[bool], contradicts: Sequence[bool], enough: bool) -> str:
    if enough and all(supports):
        return YES
    return NO if enough and any(contradicts) and not any(supports) else OPEN


def _has_both_activations(cells: Sequence[CellResult]) -> bool:
    """Whether both activations have cells at two scales or more."""
    return all(sum(cell.hidden_act == act for cell in cells) >= 2 for act in ACTS)


def _falls(cells: Sequence[CellResult]) -> bool:
    from scipy.stats import spearmanr

    ranks = spearmanr([width_over_depth(cell) for cell in cells], [last_ratio(cell) for cell in cells])
    return bool(np.asarray(ranks)[0] < -0.7)  # correlation and p-value


def _missing_cells(
    cells: Sequence[CellResult], presets: Sequence[str], acts: Sequence[str]
) -> tuple[str, ...]:
    finished = {cell.name for cell in cells}
    wanted = [c.name for c in CELLS if c.preset in presets and c.hidden_act in acts and c.seed == 1]
    return tuple(name for name in wanted if name not in finished)


def _percentage_points(value: float) -> str:
    """A difference of ratios in percentage points."""
    return f"{100 * value:.2f}"


def _span(estimate: Estimate) -> str:
    low = f"{estimate.low:.3g}" if estimate.low_closed else "open"
    high = f"{estimate.high:.3g}" if estimate.high_closed else "open"
    return f"{estimate.value:.3g} [{low}, {high}]"


def _limit_span(limit: Estimate) -> str:
    low = f"{100 * limit.low:.2f}" if limit.low_closed else "open"
    high = f"{100 * limit.high:.2f}" if limit.high_closed else "open"
    return f"[{low}, {high}]"
