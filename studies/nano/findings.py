"""The paper's four findings (Sparsing Law, arXiv 2411.02335) asked of the cells that are there, with 95% intervals.

Each answer is one of three, by a rule that is fixed in this file: the finding shows up, it does not, or the cells
do not say.
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

YES, NO, OPEN = "shows up", "does not show up", "cannot be said"
ACTS = {"relu": "ReLU", "silu": "SiLU"}
WITHOUT_BEND = {"log_line": "a straight line in the logarithm", "power": "a power law"}
"""Curves of two coefficients that the ratio may follow over width and depth instead; name of the form to words."""
LEVEL = 0.95
WARM = 200_000
"""Points with fewer training tokens are left out: the first of them fall in the warm-up of the rate."""
LAST = 5
"""A cell's ratio at the end is the mean over this many last points, which one CETT was found on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One question and its answer."""

    title: str
    claim: str
    """As the paper has it."""
    rule: str
    """When this study says that it shows up."""
    answer: str
    lines: tuple[str, ...]
    """What was found, one line per comparison."""
    waiting: tuple[str, ...]
    """Cells that would be used and are not there yet."""


def load_cells() -> dict[str, CellResult]:
    """The finished cells by name."""
    return {cell.name: CellResult.load(cell.result) for cell in CELLS if cell.result.exists()}


def find(cells: dict[str, CellResult]) -> list[Finding]:
    """The four findings."""
    scales, shapes = ([*first_seeds(cells.values(), presets)] for presets in (SCALES, SHAPES))
    return [
        direction(scales),
        equal_quality(scales),
        width_depth([cell for cell in shapes if cell.hidden_act == "relu"], seed_spread(cells)),
        scale_limit(scales, seed_spread(cells)),
    ]


def direction(cells: Sequence[CellResult]) -> Finding:
    """Whether the ratio falls with data for ReLU and rises for SiLU: the slope of a line in ln D."""
    slopes = [slope(cell, law_fit(cell).num_dropped) for cell in cells]
    signs = [math.copysign(1, s.low) if s.low * s.high > 0 else 0 for s in slopes]
    wanted = [-1 if cell.hidden_act == "relu" else 1 for cell in cells]
    return Finding(
        title="ReLU falls and SiLU rises with training data",
        claim="The activation ratio of ReLU models decreases along training, that of SiLU models increases.",
        rule="In every cell the slope of a line in the logarithm of the tokens has the paper's sign over its whole"
        f" interval, on the points that the fit of the law keeps: of those from {WARM:,} tokens on it leaves out a"
        " first part where the data say so, as the paper leaves out its warm-up. It does not show up when no slope"
        " has that sign and one has the other.",
        answer=_verdict(
            [s == w for s, w in zip(signs, wanted, strict=True)],
            [s == -w for s, w in zip(signs, wanted, strict=True)],
            _both(cells),
        ),
        lines=tuple(_direction_line(cell, s) for cell, s in zip(cells, slopes, strict=True)),
        waiting=_waiting(cells, SCALES, ("relu", "silu")),
    )


def _direction_line(cell: CellResult, kept: Estimate) -> str:
    """Both slopes of a cell in points per doubling, and from where the law is fitted."""
    found = law_fit(cell)
    return (
        f"{label(cell)}: {_doubling(kept)} points per doubling of the tokens from"
        f" {found.x[found.num_dropped]:,.0f} tokens on; {_doubling(slope(cell, 0))} from {WARM:,} on"
    )


def _doubling(s: Estimate) -> str:
    value, low, high = (_points(x * math.log(2)) for x in (s.value, s.low, s.high))
    return f"{value} [{low}, {high}]"


def equal_quality(cells: Sequence[CellResult]) -> Finding:
    """Whether ReLU is sparser at the same held-out loss, at the lowest loss that both reach."""
    gaps = [
        (relu, silu, *gap(relu, silu))
        for relu in cells
        for silu in cells
        if (relu.preset, relu.hidden_act, silu.hidden_act) == (silu.preset, "relu", "silu")
    ]
    return Finding(
        title="ReLU is sparser at equal quality",
        claim="At comparable loss ReLU models have a lower activation ratio than SiLU models.",
        rule="At the lowest held-out loss that both models of a scale reach, the ratio of the ReLU model is below"
        " that of the SiLU model by more than the interval of the difference, at every scale.",
        answer=_verdict([high < 0 for *_, high in gaps], [low > 0 for *_, low, _ in gaps], len(gaps) >= 2),
        lines=tuple(
            f"{size(relu)}: at a loss of {loss:.3f}, ReLU {100 * a:.2f}% and SiLU {100 * b:.2f}%;"
            f" difference {_points(a - b)} points [{_points(low)}, {_points(high)}]"
            for relu, silu, loss, a, b, low, high in gaps
        ),
        waiting=_waiting(cells, SCALES, ("relu", "silu")),
    )


def width_depth(cells: Sequence[CellResult], spread: float) -> Finding:
    """Whether the ratio rises linearly with width over depth up to a bottleneck, then stays flat."""
    found = shape_fit(cells)
    lines = [
        f"{cell.d_model}x{cell.n_layers} (ratio {width_over_depth(cell):.1f}):"
        f" {100 * last_ratio(cell):.2f}%, held-out loss {last_loss(cell):.3f}"
        for cell in sorted(cells, key=width_over_depth)
    ]
    answer = OPEN
    if found is not None:
        rise, bend = found.estimate("b"), found.estimate("r0")
        lines.append(
            f"rise below the bend: {100 * rise.value:.3g} points per unit of width over depth"
            f" [{100 * rise.low:.3g}, {100 * rise.high:.3g}]; bend at {_span(bend)}; {found.verdict}"
        )
        errors = bendless_errors(found)
        others = ", ".join(f"{WITHOUT_BEND[name]} {_points(error)}" for name, error in errors.items())
        lines.append(f"error of the fit, in points: linear, then flat {_points(found.rmse)}, {others}")
        shown = rise.low > 0 and bend.closed and found.rmse < min(errors.values())
        answer = YES if shown else NO if _falls(cells) else OPEN
    if cells:
        ratios = [last_ratio(cell) for cell in cells]
        lines.append(
            f"all shapes lie within {_points(max(ratios) - min(ratios))} points; {_seeds_line(spread)}"
        )
    return Finding(
        title="The ratio rises linearly with width over depth up to a bottleneck",
        claim="At a fixed parameter count the activation ratio rises linearly with d_model / n_layers up to a"
        " bottleneck (114 at 0.1B), then stays flat.",
        rule=f"In a line that turns flat, fitted to the ratios at the end (mean of the last {LAST} points), the"
        " rise is above 0 over its interval, the interval of the bend is closed, and neither"
        f" {' nor '.join(WITHOUT_BEND.values())}, both with a coefficient less, comes nearer to the points."
        " It does not show up when the ratio falls with width over depth (rank correlation below -0.7).",
        answer=answer,
        lines=tuple(lines),
        waiting=_waiting(cells, SHAPES, ("relu",)),
    )


def scale_limit(cells: Sequence[CellResult], spread: float) -> Finding:
    """Whether the limit of the law is the same at all scales; the fits know the noise of one run, not of seeds."""
    lines, answers = [], []
    for act in ACTS:
        series = [cell for cell in cells if cell.hidden_act == act]
        if len(series) < 2:
            continue
        fits = [law_fit(cell) for cell in series]
        test = fit_shared(fits, ["A0"])
        for cell, found in zip(series, fits, strict=True):
            limit = found.estimate("A0")
            lines.append(
                f"{label(cell)}: limit {100 * limit.value:.2f}% {_limit_span(limit)},"
                f" at the end {100 * last_ratio(cell):.2f}%; {found.verdict}"
            )
        lines.append(
            f"{ACTS[act]}, one limit for all: {100 * test.values['A0']:.2f}%, p = {test.p_value:.2g}"
        )
        limits = [found.estimate("A0").value for found in fits]
        known, shared = all(found.identified for found in fits), test.p_value > 1 - LEVEL
        apart = max(limits) - min(limits) > 2 * spread  # False for an unknown spread
        answers.append(YES if known and shared else NO if known and apart else OPEN)
    if lines:
        lines.append(_seeds_line(spread))
    return Finding(
        title="The limit hardly depends on the scale",
        claim="At a similar width-depth ratio, models of all scales go to about the same activation ratio.",
        rule="For both activations the limits of the paper's law are identified at every scale (`sparsing fit` says"
        f" so), and a common limit is not rejected at {1 - LEVEL:.0%}. It does not show up when they are identified,"
        f" it is rejected, and they lie further apart than twice the standard deviation over seeds of {SEEDED}.",
        answer=answers[0] if len(answers) == len(ACTS) and len(set(answers)) == 1 else OPEN,
        lines=tuple(lines),
        waiting=_waiting(cells, SCALES, ("relu", "silu")),
    )


def points_of(cell: CellResult) -> Points:
    """The points of a cell from `WARM` tokens on, as the laws take them."""
    kept = [point for point in cell.track.points if point.tokens >= WARM]
    return make_points([p.tokens for p in kept], [p.activation_ratio for p in kept], name=label(cell))


def law_fit(cell: CellResult) -> LawFit:
    """The paper's law for the cell's activation; its first points are left out as the data say."""
    return fit(points_of(cell), cell.hidden_act, level=LEVEL, num_resamples=0)


def slope(cell: CellResult, drop: int) -> Estimate:
    """Change of the ratio per unit of ln D, with an interval that allows for correlated neighbours."""
    return fit(points_of(cell), "log_line", drop=drop, level=LEVEL, num_resamples=0).estimate("b")


def shape_fit(cells: Sequence[CellResult]) -> LawFit | None:
    """Linear, then flat, over the shapes; None with fewer than five."""
    if len(cells) < 5:
        return None
    x, y = [width_over_depth(cell) for cell in cells], [last_ratio(cell) for cell in cells]
    points = make_points(x, y, name="width against depth", variable="width_depth")
    return fit(points, "bottleneck", drop=0, level=LEVEL, num_resamples=0)


def bendless_errors(found: LawFit) -> dict[str, float]:
    """Root mean square error of each curve `WITHOUT_BEND` on the points of a fit, a ratio as `found.rmse` is."""
    x, y = found.kept_x, found.kept_ratio
    rss = {name: solve(Problem(form=FORMS[name], x=x, y=y)).rss for name in WITHOUT_BEND}
    return {name: math.sqrt(value / len(x)) for name, value in rss.items()}


def gap(relu: CellResult, silu: CellResult) -> tuple[float, float, float, float, float]:
    """Loss, ratio of ReLU and of SiLU there, and the interval of their difference.

    Ratios are interpolated between points along the loss. The interval is that of tracked windows; what another
    seed would give is not in it.
    """
    loss = max(min(p.loss for p in cell.track.points) for cell in (relu, silu))
    (a, wide_a), (b, wide_b) = at_loss(relu, loss), at_loss(silu, loss)
    wide = math.hypot(wide_a, wide_b)
    return loss, a, b, a - b - wide, a - b + wide


def at_loss(cell: CellResult, loss: float) -> tuple[float, float]:
    """The ratio at this held-out loss, and half its interval."""
    points = sorted(cell.track.points, key=lambda p: p.loss)
    losses = [p.loss for p in points]
    halves = [(p.activation_ratio_interval[1] - p.activation_ratio_interval[0]) / 2 for p in points]
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
    """Parameters, as it stands in legends."""
    return f"{cell.num_parameters / 1e6:.2f}M"


def label(cell: CellResult) -> str:
    """Activation and size."""
    return f"{ACTS[cell.hidden_act]} {size(cell)}"


def _seeds_line(spread: float) -> str:
    known = "an unknown amount" if math.isnan(spread) else f"{_points(spread)} points (standard deviation)"
    return f"seeds of {SEEDED}, ReLU, scatter by {known}"


def _verdict(for_it: Sequence[bool], against: Sequence[bool], enough: bool) -> str:
    if enough and all(for_it):
        return YES
    return NO if enough and any(against) and not any(for_it) else OPEN


def _both(cells: Sequence[CellResult]) -> bool:
    """Whether both activations are there at two scales at least."""
    return all(sum(cell.hidden_act == act for cell in cells) >= 2 for act in ACTS)


def _falls(cells: Sequence[CellResult]) -> bool:
    from scipy.stats import spearmanr

    ranks = spearmanr([width_over_depth(cell) for cell in cells], [last_ratio(cell) for cell in cells])
    return ranks.statistic < -0.7


def _waiting(cells: Sequence[CellResult], presets: Sequence[str], acts: Sequence[str]) -> tuple[str, ...]:
    there = {cell.name for cell in cells}
    wanted = [c.name for c in CELLS if c.preset in presets and c.hidden_act in acts and c.seed == 1]
    return tuple(name for name in wanted if name not in there)


def _points(value: float) -> str:
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
