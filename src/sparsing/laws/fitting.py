"""`fit`: one law fitted to one series, with intervals, hold-out error, rival forms and a verdict.

`fit_curve` finds the curve and its noise, `fit_forms` does so for every form. `describe_fit` adds the other parts of a
`LawFit` to one of these forms.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Mapping

import numpy as np

from sparsing.errors import InputError
from sparsing.laws.coefficient_intervals import coefficient_interval, prediction_interval, profile_coefficient
from sparsing.laws.form import Form
from sparsing.laws.forms import FORMS
from sparsing.laws.lawfit import Estimate, Holdout, LawFit, Rival
from sparsing.laws.noise import effective_points, estimate_noise, log_likelihood
from sparsing.laws.points import Points
from sparsing.laws.profile import CurveFit
from sparsing.laws.residual_bootstrap import bootstrap_parameters
from sparsing.laws.solve import Problem, solve
from sparsing.laws.verdict import judge
from sparsing.laws.warmup import DroppedPoints, choose_drop


def fit(
    points: Points,
    form: str = "relu",
    *,
    drop: int | None = None,
    level: float = 0.9,
    num_resamples: int = 200,
    seed: int = 0,
) -> LawFit:
    """Fit one form (Luo et al. 2024, arXiv 2411.02335, and its rivals) by least squares.

    The intervals and the verdict assume that this form is right. If the data are to choose the form, use
    `compare_forms` and `fit_best`, whose verdict covers the choice.

    Args:
        points: One series.
        form: A name in `FORMS`.
        drop: Number of first points to leave out; None chooses it by BIC (`warmup`).
        level: Confidence level of every interval.
        num_resamples: Refits of the block bootstrap; 0 leaves the bootstrap intervals empty.
        seed: Seed of the bootstrap.

    Raises:
        InputError: If the form is unknown or is for another variable, the points are too few, the level is outside
            (0, 1), or a count is negative.
    """
    law = FORMS[form]
    _check(points, law, drop, level, num_resamples)
    requested = drop_by_request(drop, f"{drop} by request") if drop is not None else None
    dropped = requested or choose_drop(law, points.scaled, points.y)
    fitted = fit_forms(points, dropped.count)
    return describe_fit(points, form, fitted, dropped, level=level, num_resamples=num_resamples, seed=seed)


def describe_fit(
    points: Points,
    form: str,
    fitted: Mapping[str, FittedForm],
    dropped: DroppedPoints,
    *,
    level: float,
    num_resamples: int,
    seed: int,
) -> LawFit:
    """The `LawFit` of one of the fitted forms, with all others as its rivals; arguments as in `fit`.

    Args:
        fitted: All forms on the points without the dropped ones (`fit_forms`).
        dropped: The first points that are left out.
    """
    law, curve, criteria = FORMS[form], fitted[form].curve, fitted[form].criteria
    rivals = rivals_of(form, fitted)
    estimates = _estimates(curve, level, num_resamples, seed)
    key = next((e for e in estimates if e.name == law.key), None)
    identified, verdict = judge(law, key, rivals, level)
    profile_at, profile_deviance = _key_profile(curve, key)
    total = float(((curve.y - curve.y.mean()) ** 2).sum())
    return LawFit(
        name=points.name,
        form=form,
        equation=law.equation,
        variable=points.variable,
        x=points.x,
        ratio=points.ratio,
        num_dropped=dropped.count,
        drop_reason=dropped.reason,
        key_by_drop=dropped.key_by_count,
        level=level,
        coefficients=estimates,
        rmse=math.sqrt(curve.best.rss / len(curve.x)),
        r2=1 - curve.best.rss / total if total > 0 else math.nan,
        log_likelihood=criteria.log_likelihood,
        aicc=criteria.aicc,
        bic=criteria.bic,
        noise_sd=curve.noise.sd,
        rho=curve.noise.rho,
        df=curve.noise.df,
        effective_points=effective_points(len(curve.x), curve.noise.rho),
        holdout=_holdout(curve, level),
        profile_at=profile_at,
        profile_deviance=profile_deviance,
        cutoff=curve.cutoff(level),
        rivals=rivals,
        form_choice=None,
        identified=identified,
        verdict=verdict,
        seed=seed,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def fit_curve(form: Form, x: np.ndarray, y: np.ndarray) -> CurveFit:
    """The least-squares curve and the noise around it; `x` in the unit of the law, both shape `(num_points,)`."""
    best = solve(Problem(form=form, x=x, y=y))
    return CurveFit(form=form, x=x, y=y, best=best, noise=estimate_noise(form, x, y, best.theta))


@dataclasses.dataclass(frozen=True, kw_only=True)
class InformationCriteria:
    """Criteria by which forms are compared on the same points; lower is better."""

    aicc: float
    """NaN if the points are too few for the small-sample correction."""
    bic: float
    log_likelihood: float


def information_criteria(curve: CurveFit) -> InformationCriteria:
    """AICc, BIC and log likelihood of the kept points under AR(1) noise; `sd` and `rho` count as coefficients."""
    form, n = curve.form, len(curve.x)
    ordered = form.variable == "tokens"
    likelihood = log_likelihood(curve.y - form.evaluate(curve.x, curve.best.theta), correlated=ordered)
    k = len(form.parameters) + (2 if ordered else 1)
    correction = 2 * k * (k + 1) / (n - k - 1) if n > k + 1 else math.nan
    return InformationCriteria(
        aicc=-2 * likelihood + 2 * k + correction,
        bic=-2 * likelihood + k * math.log(n),
        log_likelihood=likelihood,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FittedForm:
    """One form on one series: the curve and the criteria by which it is compared."""

    curve: CurveFit
    criteria: InformationCriteria


def fit_forms(points: Points, num_dropped: int) -> dict[str, FittedForm]:
    """Every form for which the points without the first `num_dropped` are enough, by name."""
    x, y = points.scaled[num_dropped:], points.y[num_dropped:]
    curves = {
        name: fit_curve(FORMS[name], x, y)
        for name in FORMS
        if FORMS[name].variable == points.variable and len(x) >= points_needed(FORMS[name])
    }
    return {
        name: FittedForm(curve=curve, criteria=information_criteria(curve)) for name, curve in curves.items()
    }


def points_needed(form: Form) -> int:
    """The smallest number of points a form is fitted to: one per coefficient and two for the noise."""
    return len(form.parameters) + 2


def _check(points: Points, law: Form, drop: int | None, level: float, num_resamples: int) -> None:
    if law.variable != points.variable:
        suitable = ", ".join(name for name in FORMS if FORMS[name].variable == points.variable)
        raise InputError(
            f"{points.name} holds points over {points.variable}, but the form {law.name!r} is over"
            f" {law.variable}; forms for these points: {suitable}"
        )
    if not 0 < level < 1:
        raise InputError(f"level must be in (0, 1), got {level:g}; 0.9 is usual")
    if num_resamples < 0:
        raise InputError(f"num_resamples must be 0 or more, got {num_resamples}; 0 skips the bootstrap")
    if drop is not None and drop < 0:
        raise InputError(f"drop must be 0 or more, got {drop}; it is the number of first points to leave out")
    kept = len(points.x) - (drop or 0)
    if kept < points_needed(law):
        without = f" after leaving out {drop}" if drop else ""
        raise InputError(
            f"{points.name}: {kept} points{without}, but {law.equation} has {len(law.parameters)} coefficients and"
            f" needs at least {points_needed(law)} points; measure more checkpoints or choose a form with fewer"
            " coefficients"
        )


def drop_by_request(count: int, reason: str) -> DroppedPoints:
    """Early points left out for a reason other than the BIC of the fitted form."""
    return DroppedPoints(count=count, bic=math.nan, bic_all=math.nan, reason=reason, key_by_count={})


def _estimates(curve: CurveFit, level: float, num_resamples: int, seed: int) -> tuple[Estimate, ...]:
    form = curve.form
    draws = bootstrap_parameters(curve, num_resamples=num_resamples, seed=seed) if num_resamples else None
    estimates = {}
    for index, parameter in enumerate(form.parameters):
        interval = coefficient_interval(curve, index, level)
        boot = np.quantile(draws[:, index], [0.5 - level / 2, 0.5 + level / 2]) if draws is not None else None
        estimates[parameter.name] = Estimate(
            name=parameter.name,
            value=float(parameter.to_paper(curve.best.theta[index])),
            low=float(parameter.to_paper(interval.low)),
            high=float(parameter.to_paper(interval.high)),
            low_closed=interval.low_closed,
            high_closed=interval.high_closed,
            boot_low=float(parameter.to_paper(boot[0])) if boot is not None else math.nan,
            boot_high=float(parameter.to_paper(boot[1])) if boot is not None else math.nan,
        )
    return tuple(estimates[name] for name in form.order or form.names)


def rivals_of(form: str, fitted: Mapping[str, FittedForm]) -> tuple[Rival, ...]:
    """Every other fitted form as a rival of this one, best first."""
    rivals = []
    for name, rival in fitted.items():
        if name == form:
            continue
        law, curve, aicc = FORMS[name], rival.curve, rival.criteria.aicc
        coefficients = law.to_coefficients(curve.best.theta)
        rivals.append(
            Rival(
                form=name,
                coefficients=coefficients,
                rmse=math.sqrt(curve.best.rss / len(curve.x)),
                aicc=aicc,
                delta_aicc=aicc - fitted[form].criteria.aicc,
                limit=coefficients[law.limit] if law.limit else None,
            )
        )
    return tuple(sorted(rivals, key=lambda rival: (math.isnan(rival.aicc), rival.aicc)))


def _holdout(curve: CurveFit, level: float) -> Holdout | None:
    half = len(curve.x) // 2
    if curve.form.variable != "tokens" or half < points_needed(curve.form):
        return None
    early = fit_curve(curve.form, curve.x[:half], curve.y[:half])
    predicted = curve.form.evaluate(curve.x[half:], early.best.theta)
    low, high = prediction_interval(early, float(curve.x[-1]), level)
    return Holdout(
        num_fitted=half,
        rmse=float(np.sqrt(((predicted - curve.y[half:]) ** 2).mean())),
        last_predicted=float(predicted[-1]),
        last_measured=float(curve.y[-1]),
        last_low=low,
        last_high=high,
    )


def _key_profile(curve: CurveFit, key: Estimate | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Values of the key coefficient and their deviances, for the figure; empty for a form without a key."""
    if key is None:
        return (), ()
    # In every form the key coefficient equals its own fitter's number, so its interval needs no conversion.
    at, deviance = profile_coefficient(curve, curve.form.names.index(key.name), (key.low, key.high))
    return tuple(at.tolist()), tuple(deviance.tolist())
