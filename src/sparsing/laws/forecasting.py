"""`forecast`: the activation ratio at a number of tokens, or the tokens for a ratio, from a fitted law.

Every forecast says how far beyond the measured tokens it lies and what other plausible forms predict. If the data have
chosen the form, the intervals of a forecast cover every form that is not refuted.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from sparsing.base.results import Result
from sparsing.errors import InputError
from sparsing.laws.coefficient_intervals import intervals_over_forms
from sparsing.laws.form import Form
from sparsing.laws.forms import FORMS
from sparsing.laws.lawfit import LawFit
from sparsing.laws.points import BILLION
from sparsing.laws.profile import CurveFit, curve_deviance
from sparsing.laws.solve import find_root
from sparsing.laws.verdict import MIN_DELTA

MAX_EXTRAPOLATION = 1e4
"""Tokens for a ratio are searched up to this multiple of the last measured tokens."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forecast(Result):
    """The answer of a fitted law to one question."""

    kind = "forecast"
    schema_version = 3

    name: str
    """Name of the series."""
    form: str
    asked: str
    """`tokens` or `ratio`: the quantity that the caller gave."""
    tokens: float | None
    """Training tokens; None if the law never reaches the ratio."""
    ratio: float
    """Activation ratio of the law at these tokens."""
    low: float | None
    """Lower end of the interval: of a new measurement's ratio, or of the tokens."""
    high: float | None
    """Upper end; None for tokens that the data do not bound."""
    curve_low: float
    """Lower end for the law itself, without the scatter of one measurement; NaN if a ratio was given."""
    curve_high: float
    level: float
    """Confidence level of the intervals."""
    beyond: float | None
    """Tokens divided by the last measured tokens; above 1 the forecast is an extrapolation."""
    rivals: dict[str, float | None]
    """The same forecast by the other forms in `forms`.

    If the caller of `fit` named the form, these are the forms whose AICc is within 2 of the fit's.
    """
    forms: tuple[str, ...]
    """Forms that the intervals cover; only `form` if the caller of `fit` named it."""
    warning: str
    """Empty inside the measured range."""

    @classmethod
    def upgraded(cls, document: dict[str, Any], version: int) -> dict[str, Any]:
        """Up to schema 2 the intervals covered the fitted form only."""
        return {"forms": [document["form"]]} | document


def forecast(fit: LawFit, *, tokens: float | None = None, ratio: float | None = None) -> Forecast:
    """The activation ratio at a number of tokens, or the tokens at which the law reaches a ratio.

    Args:
        fit: A law over tokens.
        tokens: Training tokens (a count), to forecast the activation ratio.
        ratio: Activation ratio in [0, 1], to forecast the tokens.

    Raises:
        InputError: If both or neither of `tokens` and `ratio` are given, the value is out of range, or the law is over
            model shapes.
    """
    if (tokens is None) == (ratio is None):
        raise InputError("give either tokens or ratio, not both; the forecast computes the other")
    if fit.variable != "tokens":
        raise InputError(
            f"{fit.name}: a forecast needs a law over tokens, but this law is over {fit.variable}"
        )
    if tokens is not None:
        if not (math.isfinite(tokens) and tokens > 0):
            raise InputError(f"tokens must be above 0, got {tokens:g}; give a count, e.g. 1e12")
        return _at_tokens(fit, float(tokens))
    assert ratio is not None
    if not 0 <= ratio <= 1:
        raise InputError(f"ratio must be in [0, 1], got {ratio:g}; divide percentages by 100")
    return _at_ratio(fit, float(ratio))


def _at_tokens(fit: LawFit, tokens: float) -> Forecast:
    x = tokens / BILLION
    (curve_low, curve_high), (low, high) = intervals_over_forms(fit.curve_fits(), x, fit.level)
    beyond = tokens / fit.x[-1]
    return Forecast(
        name=fit.name,
        form=fit.form,
        asked="tokens",
        tokens=tokens,
        ratio=float(fit.curve(np.array([x]))[0]),
        low=low,
        high=high,
        curve_low=curve_low,
        curve_high=curve_high,
        level=fit.level,
        beyond=beyond,
        rivals={name: float(form.curve(np.array([x]), values)[0]) for name, form, values in _close(fit)},
        forms=fit.forms,
        warning=_warning(fit, beyond),
    )


def _at_ratio(fit: LawFit, ratio: float) -> Forecast:
    curves = fit.curve_fits()
    kept_x = curves[0].x
    x = find_crossing(fit.law, fit.values, ratio, kept_x)
    low, high = _tokens_interval_over_forms(curves, fit.level, ratio)
    beyond = None if x is None else x / kept_x[-1]
    return Forecast(
        name=fit.name,
        form=fit.form,
        asked="ratio",
        tokens=_count(x),
        ratio=ratio,
        low=_count(low),
        high=_count(high),
        curve_low=math.nan,
        curve_high=math.nan,
        level=fit.level,
        beyond=beyond,
        rivals={
            name: _count(find_crossing(form, values, ratio, kept_x)) for name, form, values in _close(fit)
        },
        forms=fit.forms,
        warning=_warning(fit, beyond),
    )


def find_crossing(form: Form, values: dict[str, float], ratio: float, x: np.ndarray) -> float | None:
    """The first `x` at which the law reaches the ratio, in the unit of the law.

    Args:
        form: A law over tokens.
        values: Coefficients by name.
        ratio: Activation ratio.
        x: Billion tokens of the points, rising, shape `(num_points,)`. The search covers a hundredth of the first point
            to `MAX_EXTRAPOLATION` times the last.

    Returns:
        Billion tokens, or None if the law does not reach the ratio in that range.
    """
    grid = np.geomspace(x[0] / 100, x[-1] * MAX_EXTRAPOLATION, 2000)
    gap = form.curve(grid, values) - ratio
    change = np.flatnonzero(np.sign(gap[1:]) != np.sign(gap[:-1]))
    if not len(change):
        return None
    ends = grid[change[0]], grid[change[0] + 1]
    return find_root(lambda at: float(form.curve(np.array([at]), values)[0]) - ratio, *ends, 1e-9 * ends[1])


def _tokens_interval_over_forms(
    curves: Sequence[CurveFit], level: float, ratio: float
) -> tuple[float | None, float | None]:
    """`_tokens_interval` from its lowest to its highest end over several forms; None for an open end."""
    intervals = [_tokens_interval(curve, level, ratio) for curve in curves]
    lows = [interval[0] for interval in intervals if interval is not None]
    highs = [None if interval is None else interval[1] for interval in intervals]
    low = min((low for low in lows if low is not None), default=None)
    high = max((high for high in highs if high is not None), default=None)
    # A form that never meets the ratio sets no upper end, since the tokens may be infinitely many.
    return (None if None in lows else low), (None if None in highs else high)


def _tokens_interval(curve: CurveFit, level: float, ratio: float) -> tuple[float | None, float | None] | None:
    """Range of billion tokens at which a curve through the ratio is not rejected.

    Returns:
        The ends, None for an open end; None alone if the form is rejected at all tokens.
    """
    x = find_crossing(curve.form, curve.form.to_coefficients(curve.best.theta), ratio, curve.x)
    cutoff = curve.cutoff(level)

    def excess(log_x: float) -> float:
        return min(curve_deviance(curve, math.exp(log_x))(ratio), 1e6) - cutoff

    # A scan instead of steps outwards from x: the law itself may never reach the ratio although other curves do.
    grid = np.linspace(math.log(curve.x[0] / 100), math.log(curve.x[-1] * MAX_EXTRAPOLATION), 120)
    if x is not None:
        grid = np.sort(np.append(grid, math.log(x)))
    values = np.array([excess(value) for value in grid])
    inside = np.flatnonzero(values <= 0)
    if not len(inside):
        return None
    first, last = int(inside[0]), int(inside[-1])
    low = math.exp(find_root(excess, grid[first - 1], grid[first], 1e-4)) if first > 0 else None
    high = math.exp(find_root(excess, grid[last], grid[last + 1], 1e-4)) if last + 1 < len(grid) else None
    return low, high


def _close(fit: LawFit) -> list[tuple[str, Form, dict[str, float]]]:
    """Name, form and coefficients of the rivals that the data do not refute.

    If the caller named the form, these are the rivals that fit about as well as the law, or better.
    """
    return [
        (rival.form, FORMS[rival.form], rival.coefficients)
        for rival in fit.rivals
        if (rival.form in fit.forms if fit.form_choice else rival.delta_aicc < MIN_DELTA)
    ]


def _count(x: float | None) -> float | None:
    return None if x is None else x * BILLION


def _warning(fit: LawFit, beyond: float | None) -> str:
    doubt = "" if fit.identified or fit.law.limit is None else f"; {fit.verdict}"
    if beyond is None:
        searched = f"between the first point and {MAX_EXTRAPOLATION:g} times the last"
        return f"the law does not meet this ratio {searched}{doubt}"
    if beyond > 1:
        return f"extrapolation: {beyond:.2g} times the last measured {fit.x[-1]:.3g} tokens{doubt}"
    return ""
