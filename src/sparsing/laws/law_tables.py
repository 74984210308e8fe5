"""Fits and forecasts as rows of text, for the tables that `sparsing fit` and `sparsing forecast` print."""

from __future__ import annotations

import math

from sparsing.laws.forecasting import Forecast
from sparsing.laws.form import FORMS
from sparsing.laws.form_comparison import FormComparison
from sparsing.laws.lawfit import Estimate, LawFit

COEFFICIENT_COLUMNS = ("coefficient", "value", "profile interval", "bootstrap interval")
SUMMARY_COLUMNS = ("quantity", "value")
RANK_COLUMNS = ("form", "RMSE (points)", "AICc - best", "BIC", "weight", "limit A0 (%)")


def coefficient_rows(fit: LawFit) -> list[tuple[str, ...]]:
    """One row per coefficient, in the order of `COEFFICIENT_COLUMNS`."""
    rows = []
    for e in fit.coefficients:
        bootstrap = "" if math.isnan(e.boot_low) else f"{e.boot_low:.4g} to {e.boot_high:.4g}"
        rows.append((e.name, f"{e.value:.4g}", interval_text(e), bootstrap))
    return rows


def interval_text(estimate: Estimate, scale: float = 1.0, spec: str = ".4g") -> str:
    """The profile interval times `scale`; an end that the data do not set is written as `open`."""
    low = f"{scale * estimate.low:{spec}}" if estimate.low_closed else "open"
    high = f"{scale * estimate.high:{spec}}" if estimate.high_closed else "open"
    return f"{low} to {high}"


def _dropped(fit: LawFit) -> str:
    return f"the first {fit.num_dropped}" if fit.num_dropped else "none"


def summary_rows(fit: LawFit) -> list[tuple[str, ...]]:
    """Everything about a fit but its coefficients; differences of ratios are in percentage points."""
    rows = [
        ("points", f"{len(fit.x)}, {_dropped(fit)} dropped ({fit.drop_reason})"),
        ("RMSE", f"{100 * fit.rmse:.4f} points"),
        ("R2", f"{fit.r2:.4f}"),
        ("AICc, BIC", f"{fit.aicc:.1f}, {fit.bic:.1f}"),
        ("noise", f"{100 * fit.noise_sd:.4f} points, correlation of neighbours {fit.rho:.2f}"),
        ("effective points", f"{fit.effective_points:.1f}"),
    ]
    if fit.key and fit.key_by_drop:
        scale, unit = (100, "%") if fit.law.limit else (1, "")
        low, high = scale * min(fit.key_by_drop.values()), scale * max(fit.key_by_drop.values())
        counts = f"{min(map(int, fit.key_by_drop))} to {max(map(int, fit.key_by_drop))}"
        rows.append((f"{fit.key.name} by points left out ({counts})", f"{low:.4g} to {high:.4g}{unit}"))
    if fit.form_choice and fit.key_over_forms:
        scale, spec, unit = (100, ".2f", "%") if fit.law.limit else (1, ".4g", "")
        interval = interval_text(fit.key_over_forms, scale, spec)
        rows.append(
            (f"{fit.key_over_forms.name} over forms not refuted", f"{interval}{unit}: {', '.join(fit.forms)}")
        )
    if fit.holdout:
        inside = "inside" if fit.holdout.covered else "outside"
        rows.append(
            (
                "hold-out",
                f"first {fit.holdout.num_fitted} points: RMSE {100 * fit.holdout.rmse:.3f} points on the rest,"
                f" last off by {100 * fit.holdout.last_error:+.3f} ({inside} its interval)",
            )
        )
    return rows


def rank_rows(comparison: FormComparison) -> list[tuple[str, ...]]:
    """One row per form, best first, in the order of `RANK_COLUMNS`."""
    rows = []
    for fit, weight in zip(comparison.fits, comparison.weights, strict=True):
        limit = ""
        if fit.law.limit and fit.key:
            limit = f"{100 * fit.key.value:.2f} ({interval_text(fit.key, 100, '.2f')})"
        gap = fit.aicc - comparison.best.aicc
        rows.append(
            (fit.law.label, f"{100 * fit.rmse:.4f}", f"{gap:.1f}", f"{fit.bic:.1f}", f"{weight:.2f}", limit)
        )
    return rows


def forecast_rows(answer: Forecast) -> list[tuple[str, ...]]:
    """The question, the answer with its interval, the extrapolation factor, and the answers of rival forms."""
    forms = f" over {len(answer.forms)} forms" if len(answer.forms) > 1 else ""
    level = f"{answer.level:.0%}"
    tokens, ratio = ("tokens", _tokens(answer.tokens)), ("activation ratio", _percent(answer.ratio))
    if answer.asked == "tokens":
        rows = [
            tokens,
            ratio,
            (f"{level} of new measurements{forms}", f"{_percent(answer.low)} to {_percent(answer.high)}"),
            (
                f"{level} interval of the law{forms}",
                f"{_percent(answer.curve_low)} to {_percent(answer.curve_high)}",
            ),
        ]
    else:
        ends = _tokens(answer.low, "open"), _tokens(answer.high, "open")
        rows = [ratio, tokens, (f"{level} interval{forms}", " to ".join(ends))]
    beyond = "never meets it"
    if answer.beyond is not None:
        beyond = f"{answer.beyond:.3g} times the last measured tokens"
    text = _percent if answer.asked == "tokens" else _tokens
    # Up to 2 in AICc a rival fits as well; an interval over several forms covers all rivals that are not refuted.
    why = "which is not refuted" if len(answer.forms) > 1 else "which fits as well"
    rivals = [(f"by {FORMS[name].label}, {why}", text(value)) for name, value in answer.rivals.items()]
    return [*rows, ("beyond the data", beyond), *rivals]


def _percent(value: float | None) -> str:
    return "never" if value is None else f"{100 * value:.3f}%"


def _tokens(value: float | None, missing: str = "never") -> str:
    return missing if value is None else f"{value:.4g}"
