"""`forecast`: the ratio at a number of tokens, or the tokens for a ratio, with how far beyond the data that is."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from sparsing.base.results import Result
from sparsing.errors import InputError
from sparsing.laws.coefficient_intervals import curve_interval, prediction_interval
from sparsing.laws.form import Form
from sparsing.laws.forms import FORMS
from sparsing.laws.lawfit import LawFit
from sparsing.laws.points import BILLION
from sparsing.laws.profile import Fitted, deviance_through
from sparsing.laws.solve import root
from sparsing.laws.verdict import MIN_DELTA

FAR = 1e4
"""Tokens are sought up to this many times the last measured ones."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forecast(Result):
    """One question to a fitted law."""

    kind = "forecast"

    name: str
    form: str
    asked: str
    """`tokens` or `ratio`: which of the two was given."""
    tokens: float | None
    """Training tokens; None where the law never meets the ratio."""
    ratio: float
    """Activation ratio of the law there."""
    low: float | None
    """Lower end of the interval: of a new measurement's ratio, or of the tokens."""
    high: float | None
    """Upper end; None for tokens that the data do not bound."""
    curve_low: float
    """Lower end for the law itself, without the scatter of one measurement; NaN where tokens were asked."""
    curve_high: float
    level: float
    beyond: float | None
    """Tokens over the last measured tokens; above 1 this is extrapolation."""
    rivals: dict[str, float | None]
    """What forms within 2 of the fit's AICc say of the same."""
    warning: str
    """Empty inside the data."""


def forecast(fit: LawFit, *, tokens: float | None = None, ratio: float | None = None) -> Forecast:
    """Ask a fitted law.

    Args:
        tokens: training tokens (a count): what will the activation ratio be?
        ratio: activation ratio in [0, 1]: how many tokens does it take?

    Raises:
        InputError: not exactly one of the two, one out of range, or a law over model shapes.
    """
    if (tokens is None) == (ratio is None):
        raise InputError("give either tokens or ratio, the forecast answers with the other")
    if fit.variable != "tokens":
        raise InputError(f"{fit.name}: a forecast needs a law over tokens, this one is over {fit.variable}")
    if tokens is not None:
        if not (math.isfinite(tokens) and tokens > 0):
            raise InputError(f"tokens must be above 0, got {tokens:g}; it is a count, e.g. 1e12")
        return _at_tokens(fit, float(tokens))
    assert ratio is not None
    if not 0 <= ratio <= 1:
        raise InputError(f"ratio must be in [0, 1], got {ratio:g}; divide percentages by 100")
    return _at_ratio(fit, float(ratio))


def _at_tokens(fit: LawFit, tokens: float) -> Forecast:
    fitted, x = fit.fitted(), tokens / BILLION
    curve_low, curve_high = curve_interval(fitted, x, fit.level)
    low, high = prediction_interval(fitted, x, fit.level, (curve_low, curve_high))
    beyond = tokens / fit.x[-1]
    rivals: dict[str, float | None] = {
        name: float(form.curve(np.array([x]), values)[0]) for name, form, values in _close(fit)
    }
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
        rivals=rivals,
        warning=_warning(fit, beyond),
    )


def _at_ratio(fit: LawFit, ratio: float) -> Forecast:
    fitted = fit.fitted()
    x = crossing(fit.law, fit.values, ratio, fitted.x)
    low, high = _tokens_interval(fit, fitted, ratio, x)
    rivals = {name: _count(crossing(form, values, ratio, fitted.x)) for name, form, values in _close(fit)}
    beyond = None if x is None else x / fitted.x[-1]
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
        rivals=rivals,
        warning=_warning(fit, beyond),
    )


def crossing(form: Form, values: dict[str, float], ratio: float, x: np.ndarray) -> float | None:
    """First `x` at which the law meets the ratio, within `FAR` times the last point; None where it does not."""
    grid = np.geomspace(x[0] / 100, x[-1] * FAR, 2000)
    gap = form.curve(grid, values) - ratio
    change = np.flatnonzero(np.sign(gap[1:]) != np.sign(gap[:-1]))
    if not len(change):
        return None
    ends = grid[change[0]], grid[change[0] + 1]
    return root(lambda at: float(form.curve(np.array([at]), values)[0]) - ratio, *ends, 1e-9 * ends[1])


def _tokens_interval(
    fit: LawFit, fitted: Fitted, ratio: float, x: float | None
) -> tuple[float | None, float | None]:
    """All `x` where a curve through `(x, ratio)` is not worse than the cutoff; None for an end that stays open."""
    cutoff = fitted.cutoff(fit.level)

    def excess(log_x: float) -> float:
        return min(deviance_through(fitted, math.exp(log_x))(ratio), 1e6) - cutoff

    grid = np.linspace(math.log(fitted.x[0] / 100), math.log(fitted.x[-1] * FAR), 120)
    if x is not None:
        grid = np.sort(np.append(grid, math.log(x)))
    values = np.array([excess(value) for value in grid])
    inside = np.flatnonzero(values <= 0)
    if not len(inside):
        return None, None
    first, last = int(inside[0]), int(inside[-1])
    low = math.exp(root(excess, grid[first - 1], grid[first], 1e-4)) if first > 0 else None
    high = math.exp(root(excess, grid[last], grid[last + 1], 1e-4)) if last + 1 < len(grid) else None
    return low, high


def _close(fit: LawFit) -> list[tuple[str, Form, dict[str, float]]]:
    return [(r.form, FORMS[r.form], r.coefficients) for r in fit.rivals if r.delta_aicc < MIN_DELTA]


def _count(x: float | None) -> float | None:
    return None if x is None else x * BILLION


def _warning(fit: LawFit, beyond: float | None) -> str:
    doubt = "" if fit.identified or fit.law.limit is None else f"; {fit.verdict}"
    if beyond is None:
        return f"the law does not meet this ratio between the first point and {FAR:g} times the last{doubt}"
    if beyond > 1:
        return f"extrapolation: {beyond:.2g} times the last measured {fit.x[-1]:.3g} tokens{doubt}"
    return ""
