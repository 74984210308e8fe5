"""A fitted law as it is saved: coefficients with intervals, the points, the noise, rivals and a verdict."""

from __future__ import annotations

import dataclasses

import numpy as np

from sparsing.base.results import Result
from sparsing.laws.form import Form
from sparsing.laws.forms import FORMS
from sparsing.laws.noise import estimate_noise
from sparsing.laws.points import BILLION
from sparsing.laws.profile import Fitted
from sparsing.laws.solve import Solution


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate(Result):
    """One coefficient as the paper writes it."""

    kind = "coefficient_estimate"

    name: str
    value: float
    """The least-squares value."""
    low: float
    """Lower end of the profile-likelihood interval."""
    high: float
    low_closed: bool
    """False: the data put no lower end; `low` is the end of the allowed range."""
    high_closed: bool
    boot_low: float
    """Lower end of the block-bootstrap interval; NaN without a bootstrap."""
    boot_high: float

    @property
    def closed(self) -> bool:
        return self.low_closed and self.high_closed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rival(Result):
    """Another form on the same points, without intervals."""

    kind = "rival_form"

    form: str
    coefficients: dict[str, float]
    rmse: float
    aicc: float
    delta_aicc: float
    """`aicc` minus that of the fit; below 0 the rival is better; NaN with too few points for AICc."""
    limit: float | None
    """Its ratio after endless training, where it has one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Holdout(Result):
    """Fitted on the first half of the kept points, asked for the rest."""

    kind = "law_holdout"

    num_fitted: int
    rmse: float
    """Over the second half, a ratio."""
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
class LawFit(Result):
    """What the points say about one form."""

    kind = "law_fit"

    name: str
    """Of the series."""
    form: str
    equation: str
    variable: str
    x: tuple[float, ...]
    """All points given: training tokens (a count), or width over depth."""
    ratio: tuple[float, ...]
    num_dropped: int
    """First points that the fit does not use."""
    drop_reason: str
    key_by_drop: dict[str, float]
    """The key coefficient by the number of first points left out; empty for a forced count."""
    level: float
    """Confidence level of every interval."""
    coefficients: tuple[Estimate, ...]
    """In the paper's order."""
    rmse: float
    """Over the kept points, a ratio."""
    r2: float
    log_likelihood: float
    """AR(1), Gaussian."""
    aicc: float
    """NaN (null in JSON) where there are too few points for it."""
    bic: float
    noise_sd: float
    rho: float
    """Correlation of neighbouring residuals, bias removed."""
    df: float
    effective_points: float
    """Independent points worth as much as the kept ones."""
    holdout: Holdout | None
    """None where half of the points are too few for the form."""
    profile_at: tuple[float, ...]
    """Values of the key coefficient (the limit, or the bottleneck) at which the profile was taken."""
    profile_deviance: tuple[float, ...]
    cutoff: float
    """Deviance at the ends of the interval."""
    rivals: tuple[Rival, ...]
    """Best first."""
    identified: bool
    verdict: str
    seed: int
    created: str

    @property
    def law(self) -> Form:
        return FORMS[self.form]

    @property
    def values(self) -> dict[str, float]:
        return {estimate.name: estimate.value for estimate in self.coefficients}

    def estimate(self, name: str) -> Estimate:
        return next(estimate for estimate in self.coefficients if estimate.name == name)

    @property
    def key(self) -> Estimate | None:
        """The coefficient that the verdict is about."""
        return self.estimate(self.law.key) if self.law.key else None

    @property
    def kept_x(self) -> np.ndarray:
        """Of the kept points, in the unit of the law, shape `(num_kept,)`."""
        unit = BILLION if self.variable == "tokens" else 1.0
        return np.array(self.x[self.num_dropped :]) / unit

    @property
    def kept_ratio(self) -> np.ndarray:
        return np.array(self.ratio[self.num_dropped :])

    def curve(self, x: np.ndarray) -> np.ndarray:
        """`A` at `x` in the unit of the law (billion tokens), shape `(num_points,)`."""
        return self.law.curve(x, self.values)

    def fitted(self) -> Fitted:
        """What forecasts and joint fits work with."""
        form, x, y = self.law, self.kept_x, self.kept_ratio
        theta = form.internal(self.values)
        residual = y - form.evaluate(x, theta)
        best = Solution(theta=theta, rss=float(residual @ residual))
        return Fitted(form=form, x=x, y=y, best=best, noise=estimate_noise(form, x, y, theta))
