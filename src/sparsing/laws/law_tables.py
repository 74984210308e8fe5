"""Fits and forecasts as rows of text, for the command line and the report."""

from __future__ import annotations

from sparsing.laws.forecasting import Forecast
from sparsing.laws.form_comparison import Comparison
from sparsing.laws.lawfit import Estimate, LawFit

Row = tuple[str, ...]

COEFFICIENT_COLUMNS = ("coefficient", "value", "profile interval", "bootstrap interval")
SUMMARY_COLUMNS = ("quantity", "value")
RANK_COLUMNS = ("form", "RMSE (points)", "AICc - best", "BIC", "weight", "limit A0 (%)")


def coefficient_rows(fit: LawFit) -> list[Row]:
    """One row per coefficient; an end that the data leave open is marked `open`."""
    return [
        (e.name, f"{e.value:.4g}", interval_text(e), _boot(e.boot_low, e.boot_high)) for e in fit.coefficients
    ]


def interval_text(estimate: Estimate, scale: float = 1.0, spec: str = ".4g") -> str:
    low = f"{scale * estimate.low:{spec}}" if estimate.low_closed else "open"
    high = f"{scale * estimate.high:{spec}}" if estimate.high_closed else "open"
    return f"{low} to {high}"


def summary_rows(fit: LawFit) -> list[Row]:
    """What else there is to say of a fit; differences of ratios in percentage points."""
    rows = [
        ("points", f"{len(fit.x)}, the first {fit.num_dropped} left out: {fit.drop_reason}"),
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


def rank_rows(comparison: Comparison) -> list[Row]:
    """Forms, best first."""
    rows = []
    for fit, weight in zip(comparison.fits, comparison.weights, strict=True):
        limit = ""
        if fit.law.limit and fit.key:
            limit = f"{100 * fit.key.value:.2f} ({interval_text(fit.key, 100, '.2f')})"
        gap = fit.aicc - comparison.best.aicc
        rows.append(
            (fit.law.title, f"{100 * fit.rmse:.4f}", f"{gap:.1f}", f"{fit.bic:.1f}", f"{weight:.2f}", limit)
        )
    return rows


def forecast_rows(found: Forecast) -> list[Row]:
    """Question, answer, doubt."""
    beyond = (
        "never meets it" if found.beyond is None else f"{found.beyond:.3g} times the last measured tokens"
    )
    if found.asked == "tokens":
        rows = [
            ("tokens", _tokens(found.tokens)),
            ("activation ratio", f"{100 * found.ratio:.3f}%"),
            (f"{found.level:.0%} of new measurements", f"{_percent(found.low)} to {_percent(found.high)}"),
            (
                f"{found.level:.0%} interval of the law",
                f"{_percent(found.curve_low)} to {_percent(found.curve_high)}",
            ),
        ]
        others = {name: _percent(value) for name, value in found.rivals.items()}
    else:
        rows = [
            ("activation ratio", f"{100 * found.ratio:.3f}%"),
            ("tokens", _tokens(found.tokens)),
            (f"{found.level:.0%} interval", f"{_end(found.low)} to {_end(found.high)}"),
        ]
        others = {name: _tokens(value) for name, value in found.rivals.items()}
    rows.append(("beyond the data", beyond))
    rows += [(f"by {name}, which fits as well", value) for name, value in others.items()]
    return rows


def _boot(low: float, high: float) -> str:
    return "" if low != low else f"{low:.4g} to {high:.4g}"


def _percent(value: float | None) -> str:
    return "never" if value is None else f"{100 * value:.3f}%"


def _tokens(value: float | None) -> str:
    return "never" if value is None else f"{value:.4g}"


def _end(value: float | None) -> str:
    return "open" if value is None else f"{value:.4g}"
