"""`compare`: every form on the same points of one series, best first."""

from __future__ import annotations

import dataclasses
import math

from sparsing.base.results import Result
from sparsing.errors import InputError
from sparsing.laws.fitting import fit
from sparsing.laws.forms import FORMS
from sparsing.laws.lawfit import LawFit
from sparsing.laws.points import Points
from sparsing.laws.warmup import MIN_GAIN, Drop, choose_drop


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison(Result):
    """Forms ranked by AICc on the same points."""

    kind = "form_comparison"
    former_kind = "Comparison"

    name: str
    num_dropped: int
    drop_reason: str
    fits: tuple[LawFit, ...]
    """Best first; without bootstrap intervals."""

    @property
    def best(self) -> LawFit:
        return self.fits[0]

    @property
    def weights(self) -> tuple[float, ...]:
        """Akaike weights: the share of belief in each form, if one of them is right; 0 without an AICc."""
        gaps = [f.aicc - self.best.aicc for f in self.fits]
        relative = [0.0 if math.isnan(gap) else math.exp(-0.5 * gap) for gap in gaps]
        return tuple(value / (sum(relative) or 1.0) for value in relative)


def compare(points: Points, *, drop: int | None = None, level: float = 0.9) -> Comparison:
    """Fit all forms that have enough points and rank them.

    Early points left out are the same for all: those of the form with the lowest BIC on all points, if that
    beats every form that leaves out none by more than `MIN_GAIN`. With too few points for any AICc, BIC ranks.

    Raises:
        InputError: too few points for every form.
    """
    forms = [
        name
        for name in FORMS
        if FORMS[name].variable == points.variable
        and len(points.x) - (drop or 0) >= len(FORMS[name].parameters) + 2
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
    fits.sort(key=lambda found: found.aicc if math.isfinite(found.aicc) else 1e12 + found.bic)
    return Comparison(name=points.name, num_dropped=drop, drop_reason=reason, fits=tuple(fits))


def _common_drop(drops: dict[str, Drop]) -> tuple[int, str]:
    best = min(drops, key=lambda name: drops[name].bic)
    whole = min(drops, key=lambda name: drops[name].bic_all)
    if drops[best].count and drops[best].bic < drops[whole].bic_all - MIN_GAIN:
        return drops[best].count, f"{drops[best].reason} ({FORMS[best].title})"
    return 0, f"on all points {FORMS[whole].title} is not beaten by more than {MIN_GAIN:g} in BIC on fewer"
