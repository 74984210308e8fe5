"""`compare_forms`: every law fitted to the same points of one series, ranked by AICc; `fit_best`: the best law in full.

`survey_forms` is the part that decides: which early points are left out, which form is best, which forms are not
refuted, and whether the limit is identified over all of them.
"""

from __future__ import annotations

import dataclasses
import math

from sparsing.base.results import Result
from sparsing.errors import InputError
from sparsing.laws.fitting import (
    FittedForm,
    describe_fit,
    drop_by_request,
    fit,
    fit_forms,
    points_needed,
    rivals_of,
)
from sparsing.laws.form_choice import choose_form, rank_forms
from sparsing.laws.forms import FORMS
from sparsing.laws.lawfit import FormChoice, LawFit
from sparsing.laws.points import Points
from sparsing.laws.verdict import judge_choice
from sparsing.laws.warmup import MIN_GAIN, DroppedPoints, choose_drop


@dataclasses.dataclass(frozen=True, kw_only=True)
class FormComparison(Result):
    """Forms ranked by AICc on the same points."""

    kind = "form_comparison"
    former_kind = "Comparison"
    schema_version = 3  # that of the fits in it

    name: str
    num_dropped: int
    drop_reason: str
    fits: tuple[LawFit, ...]
    """Best first, without bootstrap intervals. The verdict of the first fit covers the choice of the form; the verdicts
    of the other fits assume that their form is right."""

    @property
    def best(self) -> LawFit:
        """The fit with the lowest AICc."""
        return self.fits[0]

    @property
    def weights(self) -> tuple[float, ...]:
        """Akaike weights: the probability of each form if one of them is right; 0 for a form without an AICc."""
        gaps = [f.aicc - self.best.aicc for f in self.fits]
        relative = [0.0 if math.isnan(gap) else math.exp(-0.5 * gap) for gap in gaps]
        return tuple(value / (sum(relative) or 1.0) for value in relative)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FormSurvey:
    """What the points say about all forms, before the forms are described in full."""

    num_dropped: int
    drop_reason: str
    fitted: dict[str, FittedForm]
    """By name, lowest AICc first."""
    choice: FormChoice
    identified: bool
    """Whether the key coefficient of the best form is determined over all forms that are not refuted."""
    verdict: str


def survey_forms(points: Points, *, drop: int | None = None, level: float = 0.9) -> FormSurvey:
    """Fit all forms for which the points are enough, choose the best, and judge its limit over all plausible forms.

    Every form is fitted to the same points. By default the early points to leave out are those of the form with the
    lowest BIC on all points, provided it beats every form that leaves out none by more than `MIN_GAIN`. If the points
    are too few for the AICc of any form, BIC ranks the forms.

    Args:
        points: One series.
        drop: Number of first points to leave out; None chooses it.
        level: Confidence level of every interval.

    Raises:
        InputError: If the points are too few for every form.
    """
    forms = [
        name
        for name in FORMS
        if FORMS[name].variable == points.variable
        and len(points.x) - (drop or 0) >= points_needed(FORMS[name])
    ]
    if not forms:
        raise InputError(
            f"{points.name}: {len(points.x)} points are too few for every form; measure at least 6 checkpoints"
        )
    reason = f"{drop} by request"
    if drop is None and points.variable == "width_depth":
        drop, reason = 0, "model shapes have no warm-up"
    if drop is None:
        drop, reason = _common_drop(
            {name: choose_drop(FORMS[name], points.scaled, points.y) for name in forms}
        )
    fitted = rank_forms(fit_forms(points, drop))
    choice = choose_form(fitted, level)
    best = next(iter(fitted))
    values = FORMS[best].to_coefficients(fitted[best].curve.best.theta)
    identified, verdict = judge_choice(FORMS[best], values, choice, rivals_of(best, fitted), level)
    return FormSurvey(
        num_dropped=drop,
        drop_reason=reason,
        fitted=fitted,
        choice=choice,
        identified=identified,
        verdict=verdict,
    )


def compare_forms(points: Points, *, drop: int | None = None, level: float = 0.9) -> FormComparison:
    """The fits of all forms, ranked; arguments, choice of points and errors as in `survey_forms`."""
    survey = survey_forms(points, drop=drop, level=level)
    dropped = drop_by_request(survey.num_dropped, survey.drop_reason)
    fits = [
        describe_fit(points, name, survey.fitted, dropped, level=level, num_resamples=0, seed=0)
        for name in survey.fitted
    ]
    fits[0] = dataclasses.replace(
        fits[0], form_choice=survey.choice, identified=survey.identified, verdict=survey.verdict
    )
    return FormComparison(
        name=points.name, num_dropped=survey.num_dropped, drop_reason=survey.drop_reason, fits=tuple(fits)
    )


def fit_best(
    points: Points, comparison: FormComparison, *, num_resamples: int = 200, seed: int = 0
) -> LawFit:
    """The best form of a comparison with bootstrap intervals; its verdict and forecasts cover the choice of the form.

    Args:
        points: The series that was compared.
        comparison: The result of `compare_forms` on these points.
        num_resamples: Refits of the block bootstrap; 0 leaves the bootstrap intervals empty.
        seed: Seed of the bootstrap.
    """
    best = comparison.best
    full = fit(
        points,
        best.form,
        drop=comparison.num_dropped,
        level=best.level,
        num_resamples=num_resamples,
        seed=seed,
    )
    return dataclasses.replace(best, coefficients=full.coefficients, seed=full.seed, created=full.created)


def _common_drop(drops: dict[str, DroppedPoints]) -> tuple[int, str]:
    best = min(drops, key=lambda name: drops[name].bic)
    best_on_all = min(drops, key=lambda name: drops[name].bic_all)
    if drops[best].count and drops[best].bic < drops[best_on_all].bic_all - MIN_GAIN:
        return drops[best].count, f"{drops[best].reason} ({FORMS[best].title})"
    return 0, f"dropping early points does not improve BIC by more than {MIN_GAIN:g} for any form"
