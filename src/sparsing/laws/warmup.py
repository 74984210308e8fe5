"""How many early points to leave out: those of the warm-up do not follow the law.

Each point left out counts as a coefficient of its own, so the count is chosen as any model is, by BIC on all
points; points go only where that gains more than 6 (strong evidence; Kass and Raftery 1995).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from sparsing.laws.form import Form
from sparsing.laws.noise import log_likelihood
from sparsing.laws.solve import Problem, solve

MIN_GAIN = 6.0
MAX_SHARE = 1 / 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drop:
    """Early points left out, and why."""

    count: int
    bic: float
    """BIC on all points, with `count` as the number of extra coefficients."""
    reason: str


def choose_drop(form: Form, x: np.ndarray, y: np.ndarray) -> Drop:
    """The count, between 0 and a third of the points, that the data ask for.

    Args:
        x: billion tokens, shape `(num_points,)`.
        y: activation ratios, shape `(num_points,)`.
    """
    if form.variable == "width_depth":
        return Drop(count=0, bic=dropped_bic(form, x, y, 0), reason="model shapes have no warm-up")
    spare = len(x) - len(form.parameters) - 4
    most = max(min(int(len(x) * MAX_SHARE), spare), 0)
    scores = [dropped_bic(form, x, y, count) for count in range(most + 1)]
    best = int(np.argmin(scores))
    gain = scores[0] - scores[best]
    if best == 0 or gain <= MIN_GAIN:
        return Drop(
            count=0,
            bic=scores[0],
            reason=f"leaving out up to {most} early points gains {gain:.1f} in BIC (needed: {MIN_GAIN:g})",
        )
    return Drop(
        count=best,
        bic=scores[best],
        reason=f"without the first {best} points BIC is lower by {gain:.1f} (needed: {MIN_GAIN:g})",
    )


def dropped_bic(form: Form, x: np.ndarray, y: np.ndarray, count: int) -> float:
    """BIC of all points when the first `count` have coefficients of their own."""
    x, y = x[count:], y[count:]
    residual = y - form.evaluate(x, solve(Problem(form=form, x=x, y=y)).theta)
    likelihood = log_likelihood(residual, count, form.variable == "tokens")
    return -2 * likelihood + (len(form.parameters) + 2 + count) * float(np.log(len(x) + count))
