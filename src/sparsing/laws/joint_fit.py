"""`fit_joint`: do several scales share a coefficient? A likelihood-ratio test on summed profiles.

Holding a coefficient at one value for all series costs the sum of their deviances. The smallest sum is the
likelihood ratio of "all share it" against "each its own"; per degree of freedom it is compared with
`F((num_series - 1) * num_shared, sum of df)`, which allows for noise sizes that are estimated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize
from scipy.stats import f as f_distribution

from sparsing.base.results import Result
from sparsing.errors import InputError
from sparsing.laws.fitting import fit
from sparsing.laws.lawfit import Estimate, LawFit
from sparsing.laws.points import Points
from sparsing.laws.profile import Fitted
from sparsing.laws.solve import Problem, solve


@dataclasses.dataclass(frozen=True, kw_only=True)
class JointFit(Result):
    """Series of one form with some coefficients held equal."""

    kind = "joint_fit"

    form: str
    shared: tuple[str, ...]
    names: tuple[str, ...]
    """Of the series."""
    values: dict[str, float]
    """The common coefficients."""
    separate: dict[str, tuple[Estimate, ...]]
    """Per shared coefficient, each series' own estimate, in the order of `names`."""
    statistic: float
    """Likelihood ratio per degree of freedom."""
    df: tuple[float, float]
    """Degrees of freedom of its F distribution."""
    p_value: float
    verdict: str


def fit_joint(
    series: Sequence[Points],
    form: str = "relu",
    *,
    shared: Sequence[str] = ("A0",),
    drop: Sequence[int] | None = None,
    level: float = 0.9,
) -> JointFit:
    """Test whether series share coefficients, and find the common values.

    Args:
        series: at least two, e.g. one per model scale.
        shared: names of the form's coefficients.
        drop: first points to leave out of each series; None lets the data choose.

    Raises:
        InputError: fewer than two series, an unknown coefficient, or what `fit` raises.
    """
    if len(series) < 2:
        raise InputError(f"a joint fit needs at least two series, got {len(series)}")
    if drop is not None and len(drop) != len(series):
        raise InputError(f"drop must give one count for each of the {len(series)} series, got {len(drop)}")
    counts = drop if drop is not None else [None] * len(series)
    fits = [
        fit(points, form, drop=count, level=level, num_resamples=0)
        for points, count in zip(series, counts, strict=True)
    ]
    return share_test(fits, shared)


def share_test(fits: Sequence[LawFit], shared: Sequence[str]) -> JointFit:
    """As `fit_joint`, on series that are fitted already."""
    law = fits[0].law
    unknown = [name for name in shared if name not in law.names]
    if unknown or not shared:
        raise InputError(
            f"shared must name coefficients of {law.equation}: {', '.join(law.names)}; got {shared}"
        )
    indices = [law.names.index(name) for name in shared]
    parts = [_Part(found.fitted(), indices) for found in fits]
    value, total = _common(parts)
    df = (float((len(fits) - 1) * len(shared)), float(sum(part.fitted.noise.df for part in parts)))
    statistic = total / df[0]
    p_value = float(f_distribution.sf(statistic, *df))
    values = {
        name: float(law.parameters[i].public(v)) for name, i, v in zip(shared, indices, value, strict=True)
    }
    return JointFit(
        form=law.name,
        shared=tuple(shared),
        names=tuple(found.name for found in fits),
        values=values,
        separate={name: tuple(found.estimate(name) for found in fits) for name in shared},
        statistic=statistic,
        df=df,
        p_value=p_value,
        verdict=_verdict(values, p_value, len(fits)),
    )


class _Part:
    """One series' deviance as a function of the held parameters, each call starting from the nearest earlier one."""

    def __init__(self, fitted: Fitted, indices: list[int]):
        self.fitted, self.indices = fitted, indices
        self.best = fitted.best.theta[indices]
        covariance, naive = (self._block(matrix) for matrix in (fitted.noise.covariance, fitted.noise.naive))
        # mean inflation over the held directions: exact for one, the Rao-Scott correction for several
        ratio = np.trace(np.linalg.pinv(naive) @ covariance) / len(indices)
        self.scale = fitted.noise.sd**2 * max(float(ratio), 1.0)
        self.weight = 1.0 / np.maximum(np.diag(covariance), 1e-30)
        self.seen = [(self.best, fitted.best.theta[: len(fitted.form.nonlinear)])]

    def _block(self, matrix: np.ndarray) -> np.ndarray:
        full = np.full((len(self.fitted.best.theta),) * 2, 0.0)
        full[np.ix_(self.fitted.noise.free, self.fitted.noise.free)] = matrix
        for i in set(range(len(full))) - set(self.fitted.noise.free):
            full[i, i] = 1.0
        return full[np.ix_(self.indices, self.indices)]

    def deviance(self, value: np.ndarray) -> float:
        near = min(self.seen, key=lambda item: float(((item[0] - value) ** 2 * self.weight).sum()))[1]
        held = dict(zip(self.indices, map(float, value), strict=True))
        found = solve(Problem(form=self.fitted.form, x=self.fitted.x, y=self.fitted.y, held=held), near)
        self.seen.append((value.copy(), found.theta[: len(near)]))
        return max(found.rss - self.fitted.best.rss, 0.0) / self.scale


def _common(parts: list[_Part]) -> tuple[np.ndarray, float]:
    """The shared values with the smallest sum of deviances, and that sum."""
    own = np.array([part.best for part in parts])
    weight = np.array([part.weight for part in parts])
    low, high = own.min(0), own.max(0)
    span = np.maximum(high - low, 1e-9)

    def total(u: np.ndarray) -> float:
        return sum(part.deviance(low + np.clip(u, 0.0, 1.0) * span) for part in parts)

    starts = [((own * weight).sum(0) / weight.sum(0) - low) / span, *((row - low) / span for row in own)]
    start = min(starts, key=total)
    found = minimize(
        total, start, method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-4, "maxfev": 150}
    )
    return low + np.clip(found.x, 0.0, 1.0) * span, float(found.fun)


def _verdict(values: dict[str, float], p_value: float, num_series: int) -> str:
    named = ", ".join(f"{name} = {value:.4g}" for name, value in values.items())
    if p_value < 0.05:
        return f"the {num_series} series do not share {' and '.join(values)} (p = {p_value:.2g}; best common {named})"
    return f"the data allow one common value for all {num_series} series: {named} (p = {p_value:.2g})"
