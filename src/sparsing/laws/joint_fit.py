"""`fit_joint`: tests whether several series share a coefficient, by a likelihood ratio of summed profiles.

Holding a coefficient at one value in all series costs the sum of their deviances. The smallest such sum is the
likelihood ratio of "all series share it" against "each series has its own". Divided by its degrees of freedom it is
compared with `F((num_series - 1) * num_shared, sum of df)`, which accounts for noise sizes that are estimated.
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
from sparsing.laws.profile import CurveFit
from sparsing.laws.solve import Problem, solve


@dataclasses.dataclass(frozen=True, kw_only=True)
class JointFit(Result):
    """Series of one form with some coefficients held equal."""

    kind = "joint_fit"

    form: str
    shared: tuple[str, ...]
    """Names of the coefficients that are held equal."""
    names: tuple[str, ...]
    """Names of the series."""
    values: dict[str, float]
    """The best common value of each shared coefficient."""
    separate: dict[str, tuple[Estimate, ...]]
    """Per shared coefficient, the estimate of each series on its own, in the order of `names`."""
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
    """Test whether series share coefficients, and find the best common values.

    Args:
        series: At least two series, e.g. one per model scale.
        form: A name in `FORMS`.
        shared: Names of coefficients of the form.
        drop: Number of first points to leave out of each series; None chooses each by BIC.
        level: Confidence level of the intervals of the separate fits.

    Raises:
        InputError: If there are fewer than two series, `drop` has another length, a coefficient is unknown, or `fit`
            raises for one of the series.
    """
    if len(series) < 2:
        raise InputError(f"a joint fit needs at least two series, got {len(series)}; give more files")
    if drop is not None and len(drop) != len(series):
        raise InputError(f"drop must give one count for each of the {len(series)} series, got {len(drop)}")
    counts = drop if drop is not None else [None] * len(series)
    fits = [
        fit(points, form, drop=count, level=level, num_resamples=0)
        for points, count in zip(series, counts, strict=True)
    ]
    return fit_shared(fits, shared)


def fit_shared(fits: Sequence[LawFit], shared: Sequence[str]) -> JointFit:
    """As `fit_joint`, for series that have been fitted with one form already.

    Raises:
        InputError: If `shared` is empty or names an unknown coefficient.
    """
    law = fits[0].law
    unknown = [name for name in shared if name not in law.names]
    if unknown or not shared:
        raise InputError(
            f"shared must name coefficients of {law.equation}: {', '.join(law.names)}; got {shared}"
        )
    indices = [law.names.index(name) for name in shared]
    profiles = [_SeriesProfile(fit.curve_fit(), indices) for fit in fits]
    common, total = _common_values(profiles)
    df = (float((len(fits) - 1) * len(shared)), float(sum(profile.curve.noise.df for profile in profiles)))
    statistic = total / df[0]
    p_value = float(f_distribution.sf(statistic, *df))
    values = {
        name: float(law.parameters[i].to_paper(value))
        for name, i, value in zip(shared, indices, common, strict=True)
    }
    return JointFit(
        form=law.name,
        shared=tuple(shared),
        names=tuple(fit.name for fit in fits),
        values=values,
        separate={name: tuple(fit.estimate(name) for fit in fits) for name in shared},
        statistic=statistic,
        df=df,
        p_value=p_value,
        verdict=_verdict(values, p_value, len(fits)),
    )


class _SeriesProfile:
    """The deviance of one series as a function of the held parameters.

    Each search starts from the nearest solved point, so the order of the calls affects the result slightly.
    """

    def __init__(self, curve: CurveFit, indices: list[int]):
        self.curve, self.indices = curve, indices
        self.best = curve.best.theta[indices]
        covariance = self._shared_block(curve.noise.covariance)
        independent = self._shared_block(curve.noise.independent_covariance)
        # The mean inflation over the held directions: exact for one direction, the Rao-Scott correction for several.
        ratio = np.trace(np.linalg.pinv(independent) @ covariance) / len(indices)
        self.scale = curve.noise.sd**2 * max(float(ratio), 1.0)
        self.weight = 1.0 / np.maximum(np.diag(covariance), 1e-30)
        self.solved = [(self.best, curve.best.theta[: len(curve.form.nonlinear)])]

    def _shared_block(self, matrix: np.ndarray) -> np.ndarray:
        """The rows and columns of the held parameters; a parameter at its bound gets variance 1."""
        free = self.curve.noise.free
        full = np.eye(len(self.curve.best.theta))
        full[np.ix_(free, free)] = matrix
        return full[np.ix_(self.indices, self.indices)]

    def deviance(self, value: np.ndarray) -> float:
        near = min(self.solved, key=lambda item: float(((item[0] - value) ** 2 * self.weight).sum()))[1]
        held = dict(zip(self.indices, map(float, value), strict=True))
        solution = solve(Problem(form=self.curve.form, x=self.curve.x, y=self.curve.y, held=held), near)
        self.solved.append((value.copy(), solution.theta[: len(near)]))
        return max(solution.rss - self.curve.best.rss, 0.0) / self.scale


def _common_values(profiles: list[_SeriesProfile]) -> tuple[np.ndarray, float]:
    """The common values with the smallest sum of deviances, and that sum."""
    own = np.array([profile.best for profile in profiles])
    weight = np.array([profile.weight for profile in profiles])
    # Each deviance rises away from the series' own value, so the best common value lies between the own values.
    low, high = own.min(0), own.max(0)
    span = np.maximum(high - low, 1e-9)

    def total(u: np.ndarray) -> float:
        return sum(profile.deviance(low + np.clip(u, 0.0, 1.0) * span) for profile in profiles)

    starts = [((own * weight).sum(0) / weight.sum(0) - low) / span, *((row - low) / span for row in own)]
    start = min(starts, key=total)
    result = minimize(
        total, start, method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-4, "maxfev": 150}
    )
    return low + np.clip(result.x, 0.0, 1.0) * span, float(result.fun)


def _verdict(values: dict[str, float], p_value: float, num_series: int) -> str:
    common = ", ".join(f"{name} = {value:.4g}" for name, value in values.items())
    if p_value < 0.05:
        return f"the {num_series} series do not share {' and '.join(values)} (p = {p_value:.2g}; best common {common})"
    return f"the data allow one common value for all {num_series} series: {common} (p = {p_value:.2g})"
