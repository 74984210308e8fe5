"""The result of a fit, as it is saved: coefficients with intervals, points, noise, rival forms and the verdict."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from sparsing.base.results import Result
from sparsing.laws.form import Form
from sparsing.laws.forms import FORMS
from sparsing.laws.noise import estimate_noise
from sparsing.laws.points import unit_of
from sparsing.laws.profile import CurveFit
from sparsing.laws.solve import Solution


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate(Result):
    """One coefficient of a law, in the paper's form, with two intervals."""

    kind = "coefficient_estimate"

    name: str
    value: float
    """The least-squares value."""
    low: float
    """Lower end of the profile-likelihood interval."""
    high: float
    low_closed: bool
    """False if the data set no lower end; `low` is then the end of the allowed range."""
    high_closed: bool
    boot_low: float
    """Lower end of the block-bootstrap interval; NaN without a bootstrap."""
    boot_high: float

    @property
    def closed(self) -> bool:
        """Whether the data set both ends of the profile interval."""
        return self.low_closed and self.high_closed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rival(Result):
    """Another form fitted to the same points, without intervals."""

    kind = "rival_form"

    form: str
    coefficients: dict[str, float]
    rmse: float
    aicc: float
    delta_aicc: float
    """`aicc` minus the AICc of the fit. Below 0 the rival is better; NaN if the points are too few for AICc."""
    limit: float | None
    """The rival's ratio after endless training; None if it has no limit."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Holdout(Result):
    """A fit to the first half of the kept points, and its error on the second half."""

    kind = "law_holdout"

    num_fitted: int
    rmse: float
    """Root mean square error over the second half, a ratio."""
    last_predicted: float
    last_measured: float
    last_low: float
    """Lower end of the prediction interval for the last point."""
    last_high: float

    @property
    def last_error(self) -> float:
        """Predicted minus measured ratio of the last point."""
        return self.last_predicted - self.last_measured

    @property
    def covered(self) -> bool:
        """Whether the last point lies in its prediction interval."""
        return self.last_low <= self.last_measured <= self.last_high


@dataclasses.dataclass(frozen=True, kw_only=True)
class FormChoice(Result):
    """The forms that remain after the data have chosen the form, and the key coefficient over all of them."""

    kind = "form_choice"

    forms: tuple[str, ...]
    """Forms that are not refuted, lowest AICc first; the first form is the fitted form."""
    max_shortfall: float
    """A form is refuted if it is worse than the best by more than this, in AICc and in twice the log likelihood."""
    low: float
    """Lowest end of the profile intervals of the key coefficient; NaN if the fitted form has none."""
    high: float
    low_closed: bool
    """False if the data set no lower end under one of the forms."""
    high_closed: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class LawFit(Result):
    """One form fitted to one series."""

    kind = "law_fit"
    schema_version = 3

    name: str
    """Name of the series."""
    form: str
    equation: str
    variable: str
    x: tuple[float, ...]
    """All points given: training tokens (a count), or width over depth."""
    ratio: tuple[float, ...]
    num_dropped: int
    """Number of first points that the fit leaves out."""
    drop_reason: str
    key_by_drop: dict[str, float]
    """The key coefficient by the number of first points left out; empty if the caller gave the number."""
    level: float
    """Confidence level of every interval."""
    coefficients: tuple[Estimate, ...]
    """In the paper's order."""
    rmse: float
    """Root mean square error over the kept points, a ratio."""
    r2: float
    log_likelihood: float
    """Gaussian, with AR(1) noise."""
    aicc: float
    """NaN (null in JSON) if the points are too few for it."""
    bic: float
    noise_sd: float
    rho: float
    """Correlation of neighbouring residuals, corrected for bias."""
    df: float
    effective_points: float
    """Number of independent points that carry as much information as the kept points."""
    holdout: Holdout | None
    """None if half of the points are too few for the form."""
    profile_at: tuple[float, ...]
    """Values of the key coefficient (the limit, or the bottleneck) at which the profile was taken."""
    profile_deviance: tuple[float, ...]
    cutoff: float
    """Deviance at the ends of the interval."""
    rivals: tuple[Rival, ...]
    """Best first."""
    form_choice: FormChoice | None
    """The forms that the verdict and the forecasts cover; None if the caller named the form."""
    identified: bool
    verdict: str
    seed: int
    created: str

    @classmethod
    def upgraded(cls, document: dict[str, Any], version: int) -> dict[str, Any]:
        """Up to schema 2 the choice of the form was not recorded, so intervals hold under the fitted form only."""
        return {"form_choice": None} | document

    @property
    def law(self) -> Form:
        """The form itself."""
        return FORMS[self.form]

    @property
    def values(self) -> dict[str, float]:
        """Least-squares values of the coefficients by name."""
        return {estimate.name: estimate.value for estimate in self.coefficients}

    def estimate(self, name: str) -> Estimate:
        """The coefficient with this name."""
        return next(estimate for estimate in self.coefficients if estimate.name == name)

    @property
    def key(self) -> Estimate | None:
        """The coefficient that the verdict is about; None if the form has neither limit nor bottleneck."""
        return self.estimate(self.law.key) if self.law.key else None

    @property
    def key_over_forms(self) -> Estimate | None:
        """The key coefficient with the interval that the verdict is about: over all forms that are not refuted."""
        choice = self.form_choice
        if self.key is None or choice is None:
            return self.key
        return dataclasses.replace(
            self.key,
            low=choice.low,
            high=choice.high,
            low_closed=choice.low_closed,
            high_closed=choice.high_closed,
        )

    @property
    def forms(self) -> tuple[str, ...]:
        """The forms that intervals of the curve cover; only the fitted form if the caller named it."""
        return self.form_choice.forms if self.form_choice else (self.form,)

    @property
    def kept_x(self) -> np.ndarray:
        """Abscissa of the kept points in the unit of the law, shape `(num_kept,)`."""
        return np.array(self.x[self.num_dropped :]) / unit_of(self.variable)

    @property
    def kept_ratio(self) -> np.ndarray:
        """Activation ratios of the kept points, shape `(num_kept,)`."""
        return np.array(self.ratio[self.num_dropped :])

    def curve(self, x: np.ndarray) -> np.ndarray:
        """`A` at `x` in the unit of the law (billion tokens), shape `(num_points,)`."""
        return self.law.curve(x, self.values)

    def curve_fit(self) -> CurveFit:
        """The fitted curve with its noise, from which joint fits and intervals are computed."""
        return self._curve_of(self.law, self.values)

    def curve_fits(self) -> list[CurveFit]:
        """The fitted curve, then the curves of all other forms in `forms`, from which forecasts are computed."""
        rivals = [rival for rival in self.rivals if rival.form in self.forms]
        return [self.curve_fit(), *(self._curve_of(FORMS[r.form], r.coefficients) for r in rivals)]

    def _curve_of(self, form: Form, coefficients: dict[str, float]) -> CurveFit:
        x, y = self.kept_x, self.kept_ratio
        theta = form.to_theta(coefficients)
        residual = y - form.evaluate(x, theta)
        best = Solution(theta=theta, rss=float(residual @ residual))
        return CurveFit(form=form, x=x, y=y, best=best, noise=estimate_noise(form, x, y, theta))
