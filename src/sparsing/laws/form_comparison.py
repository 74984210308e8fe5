"""`compare_forms`: every law fitted to the same points of one series, ranked by AICc."""

from __future__ import annotations

import dataclasses
import math

from sparsing.base.results import Result
from sparsing.errors import InputError
from sparsing.laws.fitting import fit, points_needed
from sparsing.laws.forms import FORMS
from sparsing.laws.lawfit import LawFit
from sparsing.laws.points import Points
from sparsing.laws.warmup import MIN_GAIN, DroppedPoints, choose_drop


@dataclasses.dataclass(frozen=True, kw_only=True)
class FormComparison(Result):
    """Forms ranked by AICc on the same points."""

    kind = "form_comparison"
    former_kind = "Comparison"

    name: str
    num_dropped: int
    drop_reason: str
    fits: tuple[LawFit, ...]
    """Best first, without bootstrap intervals."""

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


def compare_forms(points: Points, *, drop: int | None = None, level: float = 0.9) -> FormComparison:
    """Fit all forms for which the points are enough, and rank them.

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
    fits = [fit(points, name, drop=drop, level=level, num_resamples=0) for name in forms]
    # 1e12 puts every form without an AICc behind every form with one, and orders the former by BIC.
    fits.sort(key=lambda fit: fit.aicc if math.isfinite(fit.aicc) else 1e12 + fit.bic)
    return FormComparison(name=points.name, num_dropped=drop, drop_reason=reason, fits=tuple(fits))


def _common_drop(drops: dict[str, DroppedPoints]) -> tuple[int, str]:
    best = min(drops, key=lambda name: drops[name].bic)
    best_on_all = min(drops, key=lambda name: drops[name].bic_all)
    if drops[best].count and drops[best].bic < drops[best_on_all].bic_all - MIN_GAIN:
        return drops[best].count, f"{drops[best].reason} ({FORMS[best].title})"
    return (
        0,
        f"on all points {FORMS[best_on_all].title} is not beaten by more than {MIN_GAIN:g} in BIC on fewer",
    )
