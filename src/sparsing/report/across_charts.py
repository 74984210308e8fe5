"""Charts of several results: rules against each other, measures and models, checkpoints along training, laws."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Literal

import numpy as np

from sparsing.report.charts import Chart, Mark, Series, columns
from sparsing.report.labels import model_label

if TYPE_CHECKING:
    from sparsing.laws.lawfit import LawFit
    from sparsing.measuring.frontier import RuleComparison
    from sparsing.measuring.measurement import Measurement

COSTS = (1.01, 1.05, 1.10)
"""Perplexity ratios of PPL-1%, 5% and 10%."""
LAW_POINTS = 120
AHEAD = 3.0
"""A law is drawn to this many times the last tokens."""


def frontier_chart(comparison: RuleComparison) -> Chart:
    """Perplexity against activation ratio, a line per rule; up is worse, left is sparser."""
    most = max(point.ppl_ratio for point in comparison.points)
    return Chart(
        title=f"Perplexity against activation ratio: {model_label(comparison.provenance)}",
        note="Every point is a pass over all tokens. Lower and further left is better; bars are 95% intervals.",
        x="activation ratio",
        y="perplexity ratio, sparse / dense",
        series=[_frontier(comparison, rule) for rule in comparison.rules()],
        marks=[Mark(at=c, label=f"PPL-{(c - 1) * 100:.0f}%") for c in COSTS if c <= most * 1.001],
    )


def _frontier(comparison: RuleComparison, rule: str) -> Series:
    points = comparison.of(rule)
    x_low, x_high = columns([point.activation_ratio_interval for point in points])
    y_low, y_high = columns([point.ppl_ratio_interval for point in points])
    return Series(
        name=rule,
        x=[point.activation_ratio for point in points],
        y=[point.ppl_ratio for point in points],
        x_low=x_low,
        x_high=x_high,
        y_low=y_low,
        y_high=y_high,
        text=[f"level {point.level:.4g}" for point in points],
    )


def measures_chart(results: Sequence[Measurement]) -> Chart:
    """What is kept under each measure: a line of points per measure over models, or one over the measures."""
    models = list(dict.fromkeys(model_label(result.provenance) for result in results))
    names = list(dict.fromkeys(result.name for result in results))
    several = len(models) > 1
    groups = (
        {name: [r for r in results if r.name == name] for name in names} if several else {models[0]: results}
    )
    series = []
    for name, chosen in groups.items():
        low, high = columns([result.activation_ratio_interval for result in chosen])
        at = [models.index(model_label(r.provenance)) if several else names.index(r.name) for r in chosen]
        text = [f"perplexity x {result.ppl_ratio:.4f}" for result in chosen]
        ratios = [result.activation_ratio for result in chosen]
        series.append(Series(name=name, x=at, y=ratios, y_low=low, y_high=high, text=text, mode="points"))
    return Chart(
        title="Models and measures" if several else "Measures",
        note="Activation ratio with its 95% interval; perplexity differs, see the table.",
        x="model" if several else "measure",
        y="activation ratio",
        series=series,
        x_names=models if several else names,
    )


def training_series(results: Sequence[Measurement]) -> dict[str, list[Measurement]]:
    """Checkpoints of one model under one measure, by training tokens; only where there are at least two."""
    groups: dict[tuple[str, str], dict[int, Measurement]] = {}
    for result in results:
        if tokens := result.provenance.train_tokens:
            folder = str(PurePath(result.provenance.model).parent)
            groups.setdefault((folder, result.name), {})[tokens] = result
    return {
        f"{PurePath(folder).name}, {name}": [found[tokens] for tokens in sorted(found)]
        for (folder, name), found in groups.items()
        if len(found) > 1
    }


def training_charts(series: Mapping[str, Sequence[Measurement]]) -> list[Chart]:
    """Activation ratio, and dense loss, along training."""
    if not series:
        return []
    tokens = {name: [r.provenance.train_tokens or 0 for r in run] for name, run in series.items()}
    shared = {"x": "training tokens", "x_scales": _scales(count for run in tokens.values() for count in run)}
    ratio, loss = [], []
    for name, run in series.items():
        low, high = columns([result.activation_ratio_interval for result in run])
        ratios = [result.activation_ratio for result in run]
        ratio.append(Series(name=name, x=tokens[name], y=ratios, y_low=low, y_high=high))
        loss.append(Series(name=name, x=tokens[name], y=np.log([result.ppl_dense for result in run])))
    return [
        Chart(
            title="Activation ratio along training",
            note="One point per checkpoint, with its 95% interval over windows.",
            y="activation ratio",
            series=ratio,
            **shared,
        ),
        Chart(title="Dense loss along training", y="loss, nats per token", series=loss, **shared),
    ]


def law_charts(laws: Sequence[LawFit]) -> list[Chart]:
    """Points and fitted curves, one chart per kind of law's variable."""
    charts = []
    for variable in dict.fromkeys(law.variable for law in laws):
        chosen = [law for law in laws if law.variable == variable]
        tokens = variable == "tokens"
        charts.append(
            Chart(
                title="Laws along training" if tokens else "Laws over width and depth",
                note="Points are measured, hollow ones were left out of the fit; lines are the fitted laws"
                + (f", drawn to {AHEAD:g} times the last tokens. " if tokens else ". ")
                + " ".join(f"{law.name}: {law.verdict}." for law in chosen if law.verdict),
                x="training tokens" if tokens else "d_model / n_layers",
                y="activation ratio",
                series=[part for index, law in enumerate(chosen) for part in _law(law, index, tokens)],
                x_scales=_scales(x for law in chosen for x in law.x),
            )
        )
    return charts


def _scales(values: Iterable[float]) -> tuple[Literal["linear", "log"], ...]:
    """Log first where the values span more than 30 to 1."""
    found = list(values)
    return ("log", "linear") if max(found) > 30 * min(found) else ("linear", "log")


def _law(law: LawFit, colour: int, tokens: bool) -> list[Series]:
    unit = law.x[-1] / law.kept_x[-1]
    grid = np.geomspace(law.kept_x[0], law.kept_x[-1] * (AHEAD if tokens else 1), LAW_POINTS)
    k = law.num_dropped
    parts = [
        Series(
            name=f"{law.name}: {law.law.title}",
            x=(grid * unit).tolist(),
            y=law.curve(grid),
            mode="lines",
            colour=colour,
        ),
        Series(name=law.name, x=law.x[k:], y=law.ratio[k:], mode="points", colour=colour),
    ]
    if k:
        left_out = Series(
            name=f"{law.name}, left out",
            x=law.x[:k],
            y=law.ratio[:k],
            mode="open",
            colour=colour,
            listed=False,
        )
        parts.append(left_out)
    return parts
