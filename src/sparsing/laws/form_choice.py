"""The choice of a form from the data, and the doubt that this choice adds to the limit.

Several forms may describe the same points, and the form with the lowest AICc is often not the true form: a form with
fewer coefficients pays a smaller penalty. The interval of the limit under one form is then too narrow. `choose_form`
therefore keeps every form that the points do not refute, and reports the interval of the limit over these forms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from sparsing.laws.coefficient_intervals import coefficient_interval
from sparsing.laws.fitting import FittedForm, InformationCriteria
from sparsing.laws.forms import FORMS
from sparsing.laws.lawfit import FormChoice

MAX_SHORTFALL = 10.0
"""A form is refuted if its shortfall is larger than this.

Burnham and Anderson (2002) call a form whose AICc is worse by more than 10 essentially without support. In the
simulations of `benchmarks/laws.py coverage --form auto` the true form is refuted in 4 of 2,400 series at this value.
"""


def rank_forms(fitted: Mapping[str, FittedForm]) -> dict[str, FittedForm]:
    """The forms by AICc, best first; forms without an AICc come last, ordered by BIC."""

    def rank(name: str) -> tuple[bool, float]:
        criteria = fitted[name].criteria
        missing = math.isnan(criteria.aicc)
        return missing, criteria.bic if missing else criteria.aicc

    return {name: fitted[name] for name in sorted(fitted, key=rank)}


def choose_form(fitted: Mapping[str, FittedForm], level: float) -> FormChoice:
    """The best form, the forms that are not refuted, and the interval of the limit over them.

    The interval reaches from the lowest to the highest end of the profile intervals of all forms that have the key
    coefficient of the best form and are not refuted. It covers the true value at least as often as the interval under
    the true form, except if the true form is refuted.

    Args:
        fitted: Forms on the same points.
        level: Confidence level of each profile interval.
    """
    ranked = rank_forms(fitted)
    likelihood = max(form.criteria.log_likelihood for form in ranked.values())
    aicc = min(
        (f.criteria.aicc for f in ranked.values() if not math.isnan(f.criteria.aicc)), default=math.nan
    )
    kept = [name for name, f in ranked.items() if _shortfall(f.criteria, aicc, likelihood) <= MAX_SHORTFALL]
    key = FORMS[next(iter(ranked))].key
    intervals = [
        coefficient_interval(ranked[name].curve, FORMS[name].names.index(key), level)
        for name in kept
        if key is not None and FORMS[name].key == key
    ]
    # In every form the key coefficient equals its own fitter's number, so the ends need no conversion.
    return FormChoice(
        forms=tuple(kept),
        max_shortfall=MAX_SHORTFALL,
        low=min((interval.low for interval in intervals), default=math.nan),
        high=max((interval.high for interval in intervals), default=math.nan),
        low_closed=bool(intervals) and all(interval.low_closed for interval in intervals),
        high_closed=bool(intervals) and all(interval.high_closed for interval in intervals),
    )


def _shortfall(criteria: InformationCriteria, best_aicc: float, best_likelihood: float) -> float:
    """How much worse a form is than the best: by AICc or by twice the log likelihood, whichever is smaller.

    AICc alone would refute every form with many coefficients in a short series, because its penalty grows without
    bound as the points get fewer. The likelihood alone would refute forms with few coefficients, which always fit
    somewhat worse.
    """
    by_likelihood = 2 * (best_likelihood - criteria.log_likelihood)
    by_aicc = criteria.aicc - best_aicc
    return by_likelihood if math.isnan(by_aicc) else min(by_aicc, by_likelihood)
