"""Least squares for laws by variable projection: linear weights exactly, nonlinear parameters by grid and refinement.

`solve` is the entry point. It serves the plain fit, the profile of a coefficient (some parameters held at given
values) and the profile of a prediction (the curve forced through a given point).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from scipy.optimize import fminbound, leastsq, root_scalar

from sparsing.laws.form import Form

_TINY = 1e-280
"""Replaces squared norms and pivots of 0 in denominators; far below any value that data produce."""
_STARTS = 2
"""Number of best grid nodes that are refined, since a single refinement may end in a local minimum."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Solution:
    """The best parameters and their residual sum of squares."""

    theta: np.ndarray
    """Nonlinear, then linear numbers of the form, shape `(num_parameters,)`."""
    rss: float


def bounded_lstsq(
    design: np.ndarray, y: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Least squares with bounds, for at most two columns and any number of designs at once.

    `scipy.optimize.lsq_linear` solves the same problem for one design; a fit needs thousands of designs per grid.

    Args:
        design: Shape `(..., num_points, num_columns)`.
        y: Shape `(..., num_points)`.
        low, high: Bounds of the weights, broadcast to `(..., num_columns)`.

    Returns:
        Weights `(..., num_columns)` and residual sums of squares `(...,)`.
    """
    columns = design.shape[-1]
    if columns == 0:
        return np.zeros((*y.shape[:-1], 0)), (y * y).sum(-1)
    low = np.broadcast_to(low, (*design.shape[:-2], columns))
    high = np.broadcast_to(high, (*design.shape[:-2], columns))
    if columns == 1:
        column = design[..., 0]
        weight = (column * y).sum(-1) / np.maximum((column * column).sum(-1), _TINY)
        weight = np.clip(weight, low[..., 0], high[..., 0])
        residual = y - weight[..., None] * column
        return weight[..., None], (residual * residual).sum(-1)
    free = _two_columns(design, y)
    residual = y - (design * free[..., None, :]).sum(-1)
    inside = ((free >= low) & (free <= high)).all(-1)
    best, best_rss = free, np.where(inside, (residual * residual).sum(-1), np.inf)
    if inside.all():
        return best, best_rss
    # The sum is convex: an optimum outside the box moves to the best point of one of the four edges.
    for held in (0, 1):
        for bound in (low[..., held], high[..., held]):
            weight, rss = _one_held(design, y, low, high, held, bound)
            better = rss < best_rss
            best, best_rss = np.where(better[..., None], weight, best), np.where(better, rss, best_rss)
    return best, best_rss


def _two_columns(design: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Unbounded weights by Gram-Schmidt; a column that depends on the other one gets weight 0."""
    first, second = design[..., 0], design[..., 1]
    norm = np.maximum((second * second).sum(-1), _TINY)
    overlap = (first * second).sum(-1) / norm
    rest = first - overlap[..., None] * second
    rest_norm = (rest * rest).sum(-1)
    # A squared remainder below 1e-22 of the column is rounding error of float64, not a direction.
    apart = rest_norm > 1e-22 * (first * first).sum(-1) + _TINY
    weight = np.where(apart, (rest * y).sum(-1) / np.where(apart, rest_norm, 1.0), 0.0)
    other = (second * y).sum(-1) / norm - weight * overlap
    return np.stack([weight, other], axis=-1)


def _one_held(
    design: np.ndarray, y: np.ndarray, low: np.ndarray, high: np.ndarray, held: int, bound: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The best weights with weight number `held` at `bound`; an infinite bound gives an infinite sum."""
    usable = np.isfinite(bound)
    value = np.where(usable, bound, 0.0)
    other = 1 - held
    rest = y - value[..., None] * design[..., held]
    weight, rss = bounded_lstsq(
        design[..., other : other + 1], rest, low[..., other : other + 1], high[..., other : other + 1]
    )
    pair = [value, weight[..., 0]] if held == 0 else [weight[..., 0], value]
    return np.stack(pair, axis=-1), np.where(usable, rss, np.inf)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """A least-squares problem: points, a form, and optionally held parameters or a point the curve must meet."""

    form: Form
    x: np.ndarray
    y: np.ndarray
    held: Mapping[int, float] = dataclasses.field(default_factory=dict)
    """Value of each held parameter by its index in `form.parameters`."""
    through: tuple[float, float] | None = None
    """`(x, value)`: the curve passes exactly through this point."""

    def project(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Best weights `(..., num_linear)` and residual sums `(...,)` for nonlinear parameters `z`."""
        q = len(self.form.nonlinear)
        design = self.form.basis(self.x, z)
        y = self.y - self.form.offset(self.x, z)
        low = np.array([p.low for p in self.form.linear])
        high = np.array([p.high for p in self.form.linear])
        fixed = {i - q: value for i, value in self.held.items() if i >= q}
        if self.through is not None:
            return self._project_through(self.through, z, design, y, low, high)
        if not fixed:
            return bounded_lstsq(design, y, low, high)
        free = [j for j in range(design.shape[-1]) if j not in fixed]
        for j, value in fixed.items():
            y = y - value * design[..., j]
        part, rss = bounded_lstsq(design[..., free], y, low[free], high[free])
        weights = np.empty((*rss.shape, design.shape[-1]))
        weights[..., free] = part
        for j, value in fixed.items():
            weights[..., j] = value
        return weights, rss

    def _project_through(
        self,
        point: tuple[float, float],
        z: np.ndarray,
        design: np.ndarray,
        y: np.ndarray,
        low: np.ndarray,
        high: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `project`, with the curve forced through `point`.

        The last linear weight is eliminated by forcing the curve through the point, which turns its bounds into
        bounds on the other weight.
        """
        at, value = np.array([point[0]]), point[1]
        point_basis = self.form.basis(at, z)[..., 0, :]  # (..., num_linear)
        value = value - self.form.offset(at, z)[..., 0]
        pivot = np.where(np.abs(point_basis[..., -1]) > _TINY, point_basis[..., -1], _TINY)
        shape = design[..., -1] / pivot[..., None]
        y = y - value[..., None] * shape
        rest = design[..., :-1] - point_basis[..., None, :-1] * shape[..., None]
        bound_low, bound_high = low[:-1], high[:-1]
        if rest.shape[-1] == 1:
            slope = np.where(np.abs(point_basis[..., 0]) > _TINY, point_basis[..., 0], _TINY)
            with np.errstate(
                over="ignore", invalid="ignore"
            ):  # a slope near 0 gives infinite ends, clipped below
                ends = np.stack([(value - pivot * low[-1]) / slope, (value - pivot * high[-1]) / slope])
            bound_low = np.clip(np.nanmin(ends, 0), low[0], high[0])[..., None]
            bound_high = np.clip(np.nanmax(ends, 0), low[0], high[0])[..., None]
        part, rss = bounded_lstsq(rest, y, bound_low, bound_high)
        last = (value - (point_basis[..., :-1] * part).sum(-1)) / pivot
        # Rounding may leave the last weight slightly outside its bounds; only a real violation is infeasible.
        slack = 1e-9 * (1.0 + np.abs(last))
        rss = np.where((last < low[-1] - slack) | (last > high[-1] + slack), np.inf, rss)
        return np.concatenate([part, last[..., None]], axis=-1), rss

    def solution(self, z: np.ndarray) -> Solution:
        """The solution with these nonlinear parameters, shape `(num_nonlinear,)`."""
        weights, rss = self.project(z)
        return Solution(theta=np.concatenate([z, weights]), rss=float(rss))

    def residual(self, z: np.ndarray) -> np.ndarray:
        """Points minus the best curve with these nonlinear parameters, shape `(num_points,)`."""
        weights, _ = self.project(z)
        return self.y - self.form.offset(self.x, z) - self.form.basis(self.x, z) @ weights


def solve(problem: Problem, start: np.ndarray | None = None) -> Solution:
    """The least-squares parameters.

    Args:
        problem: Points, form and constraints.
        start: Nonlinear parameters `(num_nonlinear,)` of a similar problem. With it the search is local and fast;
            without it the form's grid is searched first.
    """
    form = problem.form
    q = len(form.nonlinear)
    free = [i for i in range(q) if i not in problem.held]
    if not free:
        return problem.solution(np.array([problem.held[i] for i in range(q)], dtype=float))
    nodes = form.grid(problem.x) if start is None else np.array(start, dtype=float)[None]
    for i in range(q):
        if i in problem.held:
            nodes[:, i] = problem.held[i]
    if start is None:
        _, rss = problem.project(nodes)
        if len(free) == 1:
            return _line_search(problem, nodes, rss, free[0])
        nodes = nodes[np.argsort(rss, kind="stable")[:_STARTS]]
    return min((_refine(problem, node, free) for node in nodes), key=lambda solution: solution.rss)


def _line_search(problem: Problem, nodes: np.ndarray, rss: np.ndarray, index: int) -> Solution:
    """The solution for one free parameter: Brent's method between the neighbours of the best node."""
    order = np.argsort(nodes[:, index], kind="stable")
    nodes, rss = nodes[order], rss[order]
    best = int(np.argmin(rss))
    low, high = nodes[max(best - 1, 0), index], nodes[min(best + 1, len(nodes) - 1), index]
    z = nodes[best].copy()
    solution = problem.solution(z)
    if high > low:

        def objective(value: float) -> float:
            z[index] = value
            return float(problem.project(z)[1])

        z[index], _ = find_minimum(objective, low, high, 1e-9)
        solution = min(solution, problem.solution(z), key=lambda solution: solution.rss)
    return solution


def _refine(problem: Problem, node: np.ndarray, free: list[int]) -> Solution:
    """Levenberg-Marquardt (MINPACK) on the projected residual; steps beyond the form's bounds are clipped to them."""
    low = np.array([problem.form.nonlinear[i].low for i in free])
    high = np.array([problem.form.nonlinear[i].high for i in free])
    z = node.copy()
    z[free] = np.clip(node[free], low, high)
    begin = problem.solution(z.copy())

    def residual(values: np.ndarray) -> np.ndarray:
        z[free] = np.clip(values, low, high)
        return problem.residual(z)

    # With full_output, leastsq does not warn about a search that stops at a bound.
    end = leastsq(residual, z[free].copy(), ftol=1e-12, xtol=1e-10, maxfev=150, full_output=True)[0]
    z[free] = np.clip(end, low, high)
    # A clipped search can end above its start, so the better of the two is returned.
    return min(problem.solution(z.copy()), begin, key=lambda solution: solution.rss)


def find_minimum(
    function: Callable[[float], float], low: float, high: float, xtol: float = 1e-5
) -> tuple[float, float]:
    """Argument and value of the minimum between `low` and `high`, by Brent's method."""
    x, value, *_ = fminbound(function, low, high, xtol=xtol, full_output=True, disp=0)
    return float(x), float(value)


def find_root(function: Callable[[float], float], low: float, high: float, xtol: float) -> float:
    """The root between two arguments at which the function has opposite signs, by Brent's method."""
    return float(root_scalar(function, method="brentq", bracket=(low, high), xtol=xtol).root)
