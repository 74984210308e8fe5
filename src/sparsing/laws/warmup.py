"""Choice of how many early points to leave out, because points of the warm-up do not follow the law.

Each point left out counts as a coefficient of its own, so the count is chosen by BIC on all points, as a model is.
Points are left out only if that lowers BIC by more than 10 (very strong evidence; Kass and Raftery 1995).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from sparsing.laws.form import Form
from sparsing.laws.noise import log_likelihood
from sparsing.laws.solve import Problem, solve

MIN_GAIN = 10.0
"""Gain in BIC that is required before any point is left out."""
MAX_SHARE = 1 / 3
"""Largest share of the points that may be left out."""
MAX_TRIALS = 20
"""About this many counts are tried at most, which bounds the time for long series."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DroppedPoints:
    """Early points that are left out, and the reason."""

    count: int
    bic: float
    """BIC on all points, with `count` as the number of extra coefficients."""
    bic_all: float
    """BIC with no point left out."""
    reason: str
    key_by_count: dict[str, float]
    """The limit (or bottleneck) by the number of points left out; empty for a form without one."""


def choose_drop(form: Form, x: np.ndarray, y: np.ndarray) -> DroppedPoints:
    """The count with the lowest BIC, between 0 and a third of the points.

    Args:
        x: Billion tokens, shape `(num_points,)`.
        y: Activation ratios, shape `(num_points,)`.
    """
    counts = _counts(form, len(x))
    trials = [_trial(form, x, y, count) for count in counts]
    scores = [bic for bic, _ in trials]
    keys = {str(count): key for count, (_, key) in zip(counts, trials, strict=True) if key is not None}
    best = int(np.argmin(scores))
    gain = scores[0] - scores[best]
    if gain <= MIN_GAIN:
        best = 0
        reason = f"dropping early points does not improve BIC by more than {MIN_GAIN:g}"
    else:
        reason = f"this improves BIC by {gain:.1f}, more than {MIN_GAIN:g}"
    return DroppedPoints(
        count=counts[best], bic=scores[best], bic_all=scores[0], reason=reason, key_by_count=keys
    )


def _counts(form: Form, num_points: int) -> list[int]:
    """The counts to try: every count up to a third of the points, or about twenty of them in a long series."""
    if form.variable == "width_depth":
        return [0]  # model shapes have no warm-up
    most = max(min(int(num_points * MAX_SHARE), num_points - len(form.parameters) - 4), 0)
    return list(range(0, most + 1, max(most // MAX_TRIALS, 1)))


def _trial(form: Form, x: np.ndarray, y: np.ndarray, count: int) -> tuple[float, float | None]:
    """BIC of all points if the first `count` points have their own coefficients, and the key coefficient."""
    x, y = x[count:], y[count:]
    theta = solve(Problem(form=form, x=x, y=y)).theta
    likelihood = log_likelihood(y - form.evaluate(x, theta), count, form.variable == "tokens")
    bic = -2 * likelihood + (len(form.parameters) + 2 + count) * float(np.log(len(x) + count))
    return bic, float(theta[form.names.index(form.key)]) if form.key else None
