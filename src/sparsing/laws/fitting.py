"""`fit`: one form on one series, with its intervals, hold-out error, rivals and verdict."""

from __future__ import annotations

import datetime
import math

import numpy as np

from sparsing.errors import InputError
from sparsing.laws.coefficient_intervals import coefficient_interval, prediction_interval, profile
from sparsing.laws.form import Form
from sparsing.laws.forms import FORMS
from sparsing.laws.lawfit import Estimate, Holdout, LawFit, Rival
from sparsing.laws.noise import effective_points, estimate_noise, log_likelihood
from sparsing.laws.points import Points
from sparsing.laws.profile import Fitted
from sparsing.laws.residual_bootstrap import bootstrap
from sparsing.laws.solve import Problem, solve
from sparsing.laws.verdict import judge
from sparsing.laws.warmup import Drop, choose_drop


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

    Args:
        points: one series.
        form: a name of `FORMS`.
        drop: leave out this many first points; None lets the data choose (`warmup`).
        level: confidence of every interval.
        num_resamples: refits of the block bootstrap; 0 leaves its intervals empty.
        seed: of the bootstrap.

    Raises:
        InputError: unknown form, a form for another variable, too few points, or a level outside (0, 1).
    """
    law = FORMS[form]
    _check(points, law, drop, level, num_resamples)
    chosen = _forced(drop) if drop is not None else choose_drop(law, points.scaled, points.y)
    fitted = least_squares_fit(law, points.scaled[chosen.count :], points.y[chosen.count :])
    aicc, bic, likelihood = criteria(fitted)
    rivals = _rivals(fitted, aicc)
    estimates = _estimates(fitted, level, num_resamples, seed)
    key = next((e for e in estimates if e.name == law.key), None)
    identified, verdict = judge(law, key, rivals, level)
    at, deviance = _key_profile(fitted, key)
    total = float(((fitted.y - fitted.y.mean()) ** 2).sum())
    return LawFit(
        name=points.name,
        form=form,
        equation=law.equation,
        variable=points.variable,
        x=points.x,
        ratio=points.ratio,
        num_dropped=chosen.count,
        drop_reason=chosen.reason,
        key_by_drop=chosen.key_by_count,
        level=level,
        coefficients=estimates,
        rmse=math.sqrt(fitted.best.rss / len(fitted.x)),
        r2=1 - fitted.best.rss / total if total > 0 else math.nan,
        log_likelihood=likelihood,
        aicc=aicc,
        bic=bic,
        noise_sd=fitted.noise.sd,
        rho=fitted.noise.rho,
        df=fitted.noise.df,
        effective_points=effective_points(len(fitted.x), fitted.noise.rho),
        holdout=_holdout(fitted, level),
        profile_at=at,
        profile_deviance=deviance,
        cutoff=fitted.cutoff(level),
        rivals=rivals,
        identified=identified,
        verdict=verdict,
        seed=seed,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def least_squares_fit(form: Form, x: np.ndarray, y: np.ndarray) -> Fitted:
    """The best curve and the noise around it; `x` in the unit of the law, both shape `(num_points,)`."""
    best = solve(Problem(form=form, x=x, y=y))
    return Fitted(form=form, x=x, y=y, best=best, noise=estimate_noise(form, x, y, best.theta))


def criteria(fitted: Fitted) -> tuple[float, float, float]:
    """AICc, BIC and log likelihood of the kept points under AR(1) noise; `sd` and `rho` count as coefficients."""
    form, n = fitted.form, len(fitted.x)
    residual = fitted.y - form.evaluate(fitted.x, fitted.best.theta)
    likelihood = log_likelihood(residual, correlated=form.variable == "tokens")
    k = len(form.parameters) + (2 if form.variable == "tokens" else 1)
    correction = 2 * k * (k + 1) / (n - k - 1) if n > k + 1 else math.nan
    return -2 * likelihood + 2 * k + correction, -2 * likelihood + k * math.log(n), likelihood


def _check(points: Points, law: Form, drop: int | None, level: float, num_resamples: int) -> None:
    if law.variable != points.variable:
        right = ", ".join(name for name in FORMS if FORMS[name].variable == points.variable)
        raise InputError(
            f"{points.name} holds points over {points.variable}, but the form {law.name!r} is over"
            f" {law.variable}; forms for these points: {right}"
        )
    if not 0 < level < 1:
        raise InputError(f"level must be in (0, 1), got {level:g}; 0.9 is usual")
    if num_resamples < 0:
        raise InputError(f"num_resamples must be 0 or more, got {num_resamples}")
    if drop is not None and drop < 0:
        raise InputError(f"drop must be 0 or more, got {drop}; it counts first points to leave out")
    wanted = len(law.parameters) + 2
    kept = len(points.x) - (drop or 0)
    if kept < wanted:
        left = f" after leaving out {drop}" if drop else ""
        raise InputError(
            f"{points.name}: {kept} points{left}, but {law.equation} has {len(law.parameters)} coefficients and"
            f" needs at least {wanted} points; measure more checkpoints or choose a form with fewer coefficients"
        )


def _forced(count: int) -> Drop:
    return Drop(count=count, bic=math.nan, bic_all=math.nan, reason=f"{count} by request", key_by_count={})


def _estimates(fitted: Fitted, level: float, num_resamples: int, seed: int) -> tuple[Estimate, ...]:
    form = fitted.form
    draws = bootstrap(fitted, num_resamples=num_resamples, seed=seed) if num_resamples else None
    found = {}
    for index, parameter in enumerate(form.parameters):
        low, high, low_closed, high_closed = coefficient_interval(fitted, index, level)
        boot = np.quantile(draws[:, index], [0.5 - level / 2, 0.5 + level / 2]) if draws is not None else None
        found[parameter.name] = Estimate(
            name=parameter.name,
            value=float(parameter.public(fitted.best.theta[index])),
            low=float(parameter.public(low)),
            high=float(parameter.public(high)),
            low_closed=low_closed,
            high_closed=high_closed,
            boot_low=float(parameter.public(boot[0])) if boot is not None else math.nan,
            boot_high=float(parameter.public(boot[1])) if boot is not None else math.nan,
        )
    return tuple(found[name] for name in form.order or form.names)


def _rivals(fitted: Fitted, aicc: float) -> tuple[Rival, ...]:
    """Every other form of the same variable on the same points, best first."""
    rivals = []
    for name in FORMS:
        form = FORMS[name]
        if form is fitted.form or form.variable != fitted.form.variable:
            continue
        if len(fitted.x) < len(form.parameters) + 2:
            continue
        other = least_squares_fit(form, fitted.x, fitted.y)
        other_aicc = criteria(other)[0]
        coefficients = form.public(other.best.theta)
        rivals.append(
            Rival(
                form=name,
                coefficients=coefficients,
                rmse=math.sqrt(other.best.rss / len(fitted.x)),
                aicc=other_aicc,
                delta_aicc=other_aicc - aicc,
                limit=coefficients[form.limit] if form.limit else None,
            )
        )
    return tuple(sorted(rivals, key=lambda rival: (math.isnan(rival.aicc), rival.aicc)))


def _holdout(fitted: Fitted, level: float) -> Holdout | None:
    half = len(fitted.x) // 2
    if fitted.form.variable != "tokens" or half < len(fitted.form.parameters) + 2:
        return None
    early = least_squares_fit(fitted.form, fitted.x[:half], fitted.y[:half])
    predicted = fitted.form.evaluate(fitted.x[half:], early.best.theta)
    low, high = prediction_interval(early, float(fitted.x[-1]), level)
    return Holdout(
        num_fitted=half,
        rmse=float(np.sqrt(((predicted - fitted.y[half:]) ** 2).mean())),
        last_predicted=float(predicted[-1]),
        last_measured=float(fitted.y[-1]),
        last_low=low,
        last_high=high,
    )


def _key_profile(fitted: Fitted, key: Estimate | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The profile that the figure shows; the key coefficient is its own fitter's number in every form."""
    if key is None:
        return (), ()
    at, deviance = profile(fitted, fitted.form.names.index(key.name), (key.low, key.high))
    return tuple(at.tolist()), tuple(deviance.tolist())
