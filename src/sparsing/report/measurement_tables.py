"""The tables of measurements, comparisons and studies for the terminal and the page: a header and rows of text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sparsing.measuring.measurement import DEAD_BELOW
from sparsing.report.chart import is_interval
from sparsing.report.charts.measurement_charts import RARE_BELOW
from sparsing.report.charts.rule_charts import kept_share

if TYPE_CHECKING:
    from sparsing.measuring.frontier import RuleComparison
    from sparsing.measuring.measurement import HeldOut, Measurement
    from sparsing.neurons.study import NeuronStudy

Rows = tuple[list[str], list[list[str]]]
"""The header and the rows of a table."""

COSTS = (0.5, 1, 2, 5, 10, 20, 50)
"""Rises of perplexity in percent at which rules are compared."""


def summary(results: Sequence[Measurement]) -> Rows:
    """One row per measurement."""
    header = [
        "measure",
        "level",
        "activation ratio [95%]",
        "ppl ratio [95%]",
        "held-out ppl ratio [95%]",
        "dead neurons",
    ]
    return header, [_summary_row(result) for result in results]


def layers(result: Measurement) -> Rows:
    """One row per layer."""
    header = [
        "layer",
        "activation ratio",
        "threshold",
        "CETT, dense inputs",
        "CETT, sparse inputs",
        "dead neurons",
    ]
    columns = zip(
        result.site_labels,
        result.layer_activation_ratio,
        result.site_thresholds,
        result.cett_dense_inputs,
        result.cett_sparse_inputs,
        result.dead_neuron_ratio,
        strict=True,
    )
    return header, [
        [label, percent(ratio), _between(thresholds, ".4e"), f"{dense:.4f}", f"{sparse:.4f}", percent(dead)]
        for label, ratio, thresholds, dense, sparse, dead in columns
    ]


def experts(result: Measurement) -> Rows:
    """One row per layer with routed experts; ranges are over its experts."""
    header = [
        "layer",
        "experts per token",
        "activation ratio, routed experts",
        "of all experts",
        "share of tokens per expert",
        "activation ratio per expert",
        "CETT with shared expert",
    ]
    labels = dict(zip(result.sites, result.site_labels, strict=True))
    return header, [
        [
            labels[activity.site],
            f"{activity.top_k} of {activity.n_experts}",
            percent(activity.activation_ratio),
            percent(activity.activation_ratio_of_all),
            _between(activity.expert_load, ".2%"),
            _between(activity.expert_activation_ratio, ".2%"),
            "-" if activity.cett_with_shared is None else f"{activity.cett_with_shared:.4f}",
        ]
        for activity in result.experts
    ]


def _between(values: Sequence[float] | np.ndarray, style: str) -> str:
    """The smallest and the largest of some values, or their one value; NaN is left out."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "-"
    low, high = format(min(known), style), format(max(known), style)
    return low if low == high else f"{low} to {high}"


def frontier(comparison: RuleComparison) -> Rows:
    """Activation ratio of each rule, with its 95% interval, at the costs in perplexity that a rule has a value for.

    A figure of a level that does not meet the cost has a star, see `frontier_note`.
    """
    lines = [comparison.of(rule) for rule in comparison.rules()]
    targets = {round(100 * (p.target_ppl_ratio - 1), 6) for line in lines for p in line if p.target_ppl_ratio}
    costs = [p for p in sorted({*COSTS, *targets}) if any(kept_share(line, 1 + p / 100) for line in lines)]
    return ["rule", *(f"PPL-{p:g}%" for p in costs)], [
        [rule, *(_kept_at(comparison, rule, 1 + p / 100) for p in costs)] for rule in comparison.rules()
    ]


def _kept_at(comparison: RuleComparison, rule: str, ppl_ratio: float) -> str:
    share = kept_share(comparison.of(rule), ppl_ratio)
    if share is None:
        return "-"
    figure = f"{percent(share.ratio, 1)}{'' if share.converged else '*'}"
    return f"{figure} {interval(share.interval, digits=1)}".strip()


def frontier_note(comparison: RuleComparison) -> str:
    """What the star in `frontier` means; empty if no figure has one."""
    if all(point.converged for point in comparison.points):
        return ""
    return "* no level of the rule meets this cost; the figure is that of the nearest level"


def training(own: Mapping[str, Sequence[Measurement]], shared: Mapping[str, Sequence[Measurement]]) -> Rows:
    """One row per checkpoint of every model.

    Args:
        own: For each model its checkpoints, each at its own level.
        shared: For each model the same checkpoints at one level.
    """
    header = [
        "model",
        "trained on",
        "learning rate",
        "perplexity",
        "own CETT",
        "activation ratio at PPL-1% [95%]",
        "at one CETT [95%]",
        "ppl ratio",
    ]
    return header, [
        [
            name,
            f"{(mine.provenance.train_tokens or 0) / 1e6:.2f}M tokens",
            mine.provenance.train_phase or "-",
            f"{mine.ppl_dense:.3f}",
            f"{mine.level:.4f}",
            f"{percent(mine.activation_ratio)} {interval(mine.activation_ratio_interval)}",
            f"{percent(ours.activation_ratio)} {interval(ours.activation_ratio_interval)}",
            f"{ours.ppl_ratio:.5f}",
        ]
        for name, measurements in own.items()
        for mine, ours in zip(measurements, shared[name], strict=True)
    ]


def percent(value: float, digits: int = 2) -> str:
    """A fraction as a percentage, a dash for NaN."""
    return "-" if math.isnan(value) else f"{100 * value:.{digits}f}%"


def interval(low_high: tuple[float, float] | None, scale: float = 100, digits: int = 2) -> str:
    """`[low, high]` in multiples of `1 / scale`; empty without an interval."""
    if low_high is None or not is_interval(low_high):
        return ""
    return f"[{scale * low_high[0]:.{digits}f}, {scale * low_high[1]:.{digits}f}]"


def _summary_row(result: Measurement) -> list[str]:
    return [
        result.name,
        f"{result.level_name.partition(',')[0]} {result.level:.4g}",
        f"{percent(result.activation_ratio)} {interval(result.activation_ratio_interval)}".strip(),
        _ppl_ratio(result),
        _ppl_ratio(result.heldout) if result.heldout else "-",
        percent(sum(result.dead_neuron_ratio) / len(result.dead_neuron_ratio)),
    ]


def _ppl_ratio(result: Measurement | HeldOut) -> str:
    return f"{result.ppl_ratio:.4f} {interval(result.ppl_ratio_interval, scale=1, digits=4)}".strip()


def size(num_bytes: float) -> str:
    """Bytes in decimal units with three significant digits: `4.23 GB`."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.3g} {name}"
    return f"{num_bytes:.0f} B"


def neurons(study: NeuronStudy) -> Rows:
    """One row per corpus of a study of neurons."""
    header = ["corpus", "tokens", "activation ratio", "dead neurons", "rare, below 1%", "most active in it"]
    with np.errstate(invalid="ignore"):
        # the corpus in which each neuron is most active; -1 where a narrow layer has no neuron
        favourite = np.where(np.isfinite(study.frequency[0]), np.nan_to_num(study.frequency).argmax(0), -1)
    rows = []
    for index, (name, tokens) in enumerate(zip(study.corpora, study.num_tokens, strict=True)):
        frequency = study.frequency[index][np.isfinite(study.frequency[index])]
        shares = (
            frequency.mean(),
            (frequency < DEAD_BELOW).mean(),
            (frequency < RARE_BELOW).mean(),
            (favourite == index).sum() / (favourite >= 0).sum(),
        )
        rows.append([name, f"{tokens:,}", *(percent(float(share)) for share in shares)])
    if len(rows) == 1:  # every neuron is most active in the only corpus
        return header[:-1], [rows[0][:-1]]
    return header, rows


def study_distances(studies: Mapping[str, NeuronStudy]) -> Rows:
    """Distances of neuron frequencies between corpora and between models, the largest first."""
    from sparsing.neurons.study_comparison import frequency_distances

    header = ["between", "and", "distance of the curves", "mean difference per neuron", "rank correlation"]
    ordered = sorted(frequency_distances(studies), key=lambda distance: -distance.wasserstein)
    return header, [
        [
            pair.first,
            pair.second,
            f"{pair.wasserstein:.4f}",
            "-" if pair.mean_difference is None else f"{pair.mean_difference:.4f}",
            "-" if pair.correlation is None else f"{pair.correlation:.4f}",
        ]
        for pair in ordered
    ]
