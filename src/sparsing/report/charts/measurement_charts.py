"""Charts of one measurement: tokens, layers, thresholds, CETT, neurons and positions.

`panel_charts` returns the charts of the page, `measurement_pictures` those of the image files.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sparsing.measuring.measurement import DEAD_BELOW
from sparsing.report.chart import (
    Axis,
    Chart,
    HeatMap,
    Mark,
    Mode,
    Picture,
    Series,
    interval_columns,
    is_interval,
    padded_range,
    scales_for,
    thinned_indices,
)
from sparsing.report.labels import origin_line, token_label

if TYPE_CHECKING:
    from sparsing.measuring.measurement import Measurement
    from sparsing.rules.curves import Curves

RARE_BELOW = 0.01
"""Neurons below this frequency cannot be told from dead ones on a linear scale."""
CURVE_POINTS = 160
"""Points of a frequency curve. A layer may have ten thousand neurons, more than a picture can show."""
POSITIONS = 400
"""Points of each curve over positions."""
HEAT_MAP_TOKENS = 48
"""Columns of the heat map; the labels of more tokens touch each other."""
DEAD_MARK = Mark(at=DEAD_BELOW, label=f"dead below {DEAD_BELOW:.1%}")


def measurement_pictures(measurement: Measurement, curves: Curves | None = None) -> dict[str, Picture]:
    """Every picture that applies to the measurement, by file name.

    The log view of the neuron frequencies is left out if no neuron is rare. The calibration curves are left out if
    `curves` is not given or does not hold the score that the thresholds cut.
    """
    frequency, thresholds = neuron_frequency(measurement), layer_thresholds(measurement)
    pictures = {
        "layer_ratios": [layer_ratios(measurement)],
        "layer_thresholds": [*([thresholds] if thresholds else []), layer_cett(measurement)],
        "neuron_frequency": [frequency],
        "position_ratios": [position_ratios(measurement)],
    }
    if measurement.experts:
        pictures["expert_ratios"] = [expert_ratios(measurement)]
        pictures["expert_loads"] = [expert_loads(measurement)]
    if measurement.token_text:
        pictures["token_layer_heatmap"] = [token_ratios(measurement)]
    if np.nanmin(measurement.neuron_frequency) < RARE_BELOW:
        log = dataclasses.replace(frequency.y, scales=("log",))
        pictures["neuron_frequency_log"] = [dataclasses.replace(frequency, y=log)]
    # after a calibration per expert a layer has more than one curve
    if (
        curves is not None
        and measurement.thresholds.on in curves.scores
        and curves.sites == measurement.sites
    ):
        pictures["calibration_curves"] = [calibration_curves(curves, measurement)]
    return {name: _picture(measurement, charts) for name, charts in pictures.items()}


def token_picture(measurement: Measurement) -> Picture:
    """The heat map of tokens by layers alone, as the sample figure of Sparsing Law."""
    return _picture(measurement, [token_ratios(measurement)])


def panel_charts(measurement: Measurement) -> dict[str, Chart]:
    """Every chart of the page that applies, by name, in reading order."""
    charts = {"layers": layer_ratios(measurement)}
    if measurement.experts:
        charts |= {"experts": expert_ratios(measurement), "load": expert_loads(measurement)}
    if thresholds := layer_thresholds(measurement):
        charts["thresholds"] = thresholds
    charts |= {"cett": layer_cett(measurement), "frequency": neuron_frequency(measurement)}
    if np.isfinite(measurement.position_activation_ratio).sum() > 1:
        charts["positions"] = position_ratios(measurement)
    if measurement.token_text:
        charts["tokens"] = token_ratios(measurement)
    return charts


def token_ratios(measurement: Measurement) -> Chart:
    """Activation ratio of the first tokens in each layer, as a heat map."""
    ratios = measurement.token_activation_ratio[:HEAT_MAP_TOKENS].T  # (n_layers, shown tokens)
    names = [token_label(text) for text in measurement.token_text[: ratios.shape[1]]]
    labels = measurement.site_labels
    counted = list(labels) == [str(i) for i in range(len(labels))]  # then the axis may leave out labels
    return Chart(
        title="Activation ratio of each token in each layer",
        note=f"The first {ratios.shape[1]} tokens of the text.{_outlier_note(ratios.mean(0), 'token')}",
        x=Axis(label="token, in reading order", names=names),
        y=Axis(label="layer", whole=True) if counted else Axis(label="layer", names=labels),
        heat_map=HeatMap(values=ratios, label="activation ratio"),
    )


def layer_ratios(measurement: Measurement) -> Chart:
    """Activation ratio of each layer, and their mean, with intervals."""
    ratios, intervals = measurement.layer_activation_ratio, measurement.layer_activation_ratio_interval
    mean, interval = measurement.activation_ratio, measurement.activation_ratio_interval
    mean_low, mean_high = interval if interval is not None and is_interval(interval) else (None, None)
    near_zero = min(ratios) < 0.5 * max(ratios)
    series: list[Series] = []
    for block, sites in _blocks(measurement).items():
        low, high = interval_columns(intervals and [intervals[i] for i in sites])
        layers, own = _layers(measurement, sites), [ratios[i] for i in sites]
        series.append(Series(name=block or "layers", x=layers, y=own, y_low=low, y_high=high, mode="points"))
    return Chart(
        title="Activation ratio of each layer",
        note=_interval_note(measurement),
        x=Axis(label="layer", whole=True),
        # bars can be compared by eye where the axis starts at 0; a narrow range would be squeezed by it
        y=Axis(label="activation ratio", low=0.0 if near_zero else None),
        series=series,
        side_by_side=len(series) > 1,
        marks=[Mark(at=mean, label=f"mean {mean:.4f}", low=mean_low, high=mean_high)],
    )


def _blocks(measurement: Measurement) -> dict[str, list[int]]:
    """The sites of each kind of block, by name, as indices.

    A layer may have routed experts and a shared expert, which are two series. If no layer has two sites, all sites are
    of one kind, whose name is empty."""
    found: dict[str, list[int]] = {}
    for index, name in enumerate(measurement.site_names):
        found.setdefault(name.block, []).append(index)
    return found


def _layers(measurement: Measurement, sites: Sequence[int]) -> list[int]:
    return [measurement.layer_numbers[index] for index in sites]


def expert_ratios(measurement: Measurement) -> Chart:
    """Activation ratio of each routed expert over its own tokens, one series per layer."""
    return Chart(
        title="Activation ratio of each routed expert",
        note="Over the tokens that are routed to the expert. An expert without a token has no point.",
        x=Axis(label="expert", whole=True),
        y=Axis(label="activation ratio"),
        series=_expert_series(measurement, "expert_activation_ratio"),
    )


def expert_loads(measurement: Measurement) -> Chart:
    """Share of tokens that are routed to each expert, one series per layer."""
    even = {activity.top_k / activity.n_experts for activity in measurement.experts}
    marks = [Mark(at=share, label=f"even load {share:.3f}") for share in sorted(even)]
    return Chart(
        title="Load of each routed expert",
        note="Share of the tokens that are routed to the expert.",
        x=Axis(label="expert", whole=True),
        y=Axis(label="share of tokens", low=0.0),
        series=_expert_series(measurement, "expert_load"),
        marks=marks,
    )


def _expert_series(measurement: Measurement, field: str) -> list[Series]:
    layers = dict(zip(measurement.sites, measurement.layer_numbers, strict=True))
    last = max(len(measurement.experts) - 1, 1)
    series: list[Series] = []
    for index, activity in enumerate(measurement.experts):
        values = getattr(activity, field)
        known = np.flatnonzero(np.isfinite(values))
        series.append(
            Series(
                name=f"layer {layers[activity.site]}",
                x=known,
                y=values[known],
                mode="points",
                depth=index / last,
            )
        )
    return series


def _interval_note(measurement: Measurement) -> str:
    if not is_interval(measurement.activation_ratio_interval):
        return "A single window has no interval."
    if measurement.target_ppl_ratio is None:
        return "Bars and the shaded band are 95% intervals over windows."
    return (
        "Bars are 95% intervals over windows at these thresholds; the shaded band of the mean also includes the"
        " uncertainty of the level."
    )


def layer_thresholds(measurement: Measurement) -> Chart | None:
    """The threshold of each layer; None for a rule that keeps a share of the neurons and has no threshold."""
    if not measurement.thresholds.selection.is_threshold:
        return None
    series: list[Series] = []
    for block, sites in _blocks(measurement).items():
        # routed experts may have a threshold each
        points = [
            (measurement.layer_numbers[i], number) for i in sites for number in measurement.site_thresholds[i]
        ]
        layers, values = zip(*points, strict=True)
        series.append(Series(name=block or "threshold", x=layers, y=values, mode="points"))
    score = measurement.thresholds.on
    scales = scales_for(measurement.thresholds.numbers)
    return Chart(
        title="Threshold of each layer",
        note=f"A neuron is active when {score} > threshold.",
        x=Axis(label="layer", whole=True),
        y=Axis(label=f"threshold on {score}", scales=scales, low=0.0 if scales[0] == "linear" else None),
        series=series,
        side_by_side=len(series) > 1,
    )


def layer_cett(measurement: Measurement) -> Chart:
    """The CETT of each layer, realised and requested."""
    dense, sparse = measurement.cett_dense_inputs, measurement.cett_sparse_inputs
    requested = measurement.rule == "cett" and math.isfinite(measurement.level)
    marks = [Mark(at=measurement.level, label=f"requested {measurement.level:.4g}")] if requested else []
    values = [*dense, *sparse, *([measurement.level] if requested else [])]
    # the padding keeps rounding errors around the requested value from looking like differences
    low, high = padded_range(values, least=0.15 * float(np.mean(dense)))
    series: list[Series] = []
    for place, (block, sites) in enumerate(_blocks(measurement).items()):
        layers = _layers(measurement, sites)
        kinds: list[tuple[str, Sequence[float], Mode]] = [
            ("dense inputs (the definition)", dense, "points"),
            ("in the sparse run", sparse, "open"),
        ]
        for inputs, own, mode in kinds:
            name = f"{block}, {inputs}" if block else inputs
            colour = place if block else None
            series.append(Series(name=name, x=layers, y=[own[i] for i in sites], mode=mode, colour=colour))
    return Chart(
        title="CETT, requested and realised",
        note="Error of each layer's output that dropping neurons makes, as a share of the output. The definition"
        " uses dense inputs; in the sparse run the layers before are sparse too.",
        x=Axis(label="layer", whole=True),
        y=Axis(label="CETT", low=max(0.0, low), high=high),
        series=series,
        marks=marks,
    )


def neuron_frequency(measurement: Measurement) -> Chart:
    """Share of tokens on which each neuron is active, sorted within its layer, one line per layer."""
    rows = measurement.neuron_frequency  # (n_layers, d_ff)
    last = max(len(rows) - 1, 1)
    return Chart(
        title="How often each neuron is active",
        note="Neurons of each layer from the most to the least active. Dead neurons, active on less than"
        f" {DEAD_BELOW:.1%} of tokens: {np.mean(measurement.dead_neuron_ratio):.1%}.",
        x=Axis(label="rank of the neuron, share of d_ff", low=0.0, high=1.0),
        y=Axis(
            label="share of tokens where active",
            scales=("linear", "log"),
            # half a token: below the frequency of a neuron that was active once
            floor=min(0.5 / measurement.num_tokens, DEAD_BELOW / 2),
        ),
        series=[
            frequency_curve(f"layer {label}", row, depth=place / last, most=CURVE_POINTS)
            for place, (label, row) in enumerate(zip(measurement.site_labels, rows, strict=True))
        ],
        # without rare neurons the mark would leave most of the picture empty
        marks=[DEAD_MARK] if np.nanmin(rows) < RARE_BELOW else [],
        highlight="layer" if len(rows) > 1 else "",
    )


def frequency_curve(name: str, frequency: np.ndarray, *, most: int, depth: float | None = None) -> Series:
    """The frequencies from the largest to the smallest, at most `most` of them.

    Args:
        frequency: Any shape; NaN where a layer is narrower than the widest one and has no neuron.
        depth: See `Series.depth`; a curve with a depth is left out of the legend.
    """
    values = np.sort(frequency[np.isfinite(frequency)])[::-1]
    kept = thinned_indices(len(values), most)
    rank = (kept + 0.5) / max(len(values), 1)
    # the first and the last layer stand in the legend as the ends of the colour scale
    return Series(name=name, x=rank, y=values[kept], depth=depth, mode="lines", listed=depth in (None, 0, 1))


def position_ratios(measurement: Measurement) -> Chart:
    """Mean activation ratio by position in the window, and its running mean in long windows."""
    ratios = np.asarray(measurement.position_activation_ratio, dtype=np.float64)
    positions = np.flatnonzero(np.isfinite(ratios))
    span = max(1, len(positions) // 32) | 1  # odd, so that the mean has a middle position
    smooth = span >= 5
    shown = positions[thinned_indices(len(positions), POSITIONS)]
    mode = "points" if smooth else "both"
    series = [
        Series(
            name="mean over layers and windows", x=shown, y=ratios[shown], mode=mode, faint=smooth, colour=5
        )
    ]
    if smooth:
        means = np.convolve(ratios[positions], np.ones(span) / span, mode="valid")
        middle = positions[span // 2 : len(positions) - span // 2]
        kept = thinned_indices(len(middle), POSITIONS)
        name = f"running mean of {span} positions"
        series.append(Series(name=name, x=middle[kept], y=means[kept], mode="lines", colour=0))
    return Chart(
        title="Activation ratio by position in the window",
        note=_outlier_note(ratios[positions], "position").strip(),
        x=Axis(label="position in the window, tokens"),
        y=Axis(label="activation ratio"),
        series=series,
    )


def _outlier_note(ratios: np.ndarray, what: str) -> str:
    """A sentence if the first value is far from all others, as for BOS; else empty."""
    if len(ratios) < 3 or not np.isfinite(ratios).all():
        return ""
    first, rest = float(ratios[0]), ratios[1:]
    middle = float(np.median(rest))
    if rest.min() <= first <= rest.max() or abs(first - middle) < 2 * float(np.abs(rest - middle).max()):
        return ""
    return (
        f" The first {what} has {first:.1%}, the others {middle:.1%} in the middle: models collect attention at the"
        " start of a text (BOS), which sets the range of the scale."
    )


def calibration_curves(curves: Curves, measurement: Measurement) -> Chart:
    """Activation ratio of each layer against its CETT in the dense pass, with the thresholds in use."""
    curve = curves.scores[measurement.thresholds.on]
    last = max(len(curve.cett) - 1, 1)
    chosen = [
        np.interp(realised, cett, ratio)
        for realised, cett, ratio in zip(measurement.cett_dense_inputs, curve.cett, curve.ratio, strict=True)
    ]
    lines = [
        Series(
            name=f"layer {label}",
            x=cett,
            y=ratio,
            mode="lines",
            depth=place / last,
            listed=place in (0, last),
        )
        for place, (label, cett, ratio) in enumerate(
            zip(measurement.site_labels, curve.cett, curve.ratio, strict=True)
        )
    ]
    used = Series(
        name="thresholds in use", x=measurement.cett_dense_inputs, y=chosen, mode="points", colour=1
    )
    return Chart(
        title="What each layer keeps at a given CETT",
        note=f"Lines: {curves.sampled_tokens:,} tokens of the dense pass. Points: the thresholds in use.",
        x=Axis(label="CETT, dense inputs", low=0.0, high=1.05),
        y=Axis(label="activation ratio", low=0.0),
        series=[*lines, used],
        highlight="layer" if len(lines) > 1 else "",
    )


def measurement_subtitle(measurement: Measurement) -> str:
    """Model, measure, cost and tokens on one line."""
    return origin_line(
        measurement.provenance,
        measurement.num_tokens,
        measurement.name,
        f"perplexity x {measurement.ppl_ratio:.4f}",
    )


def _picture(measurement: Measurement, charts: list[Chart]) -> Picture:
    title = charts[0].title if len(charts) == 1 else "Threshold and CETT of each layer"
    return Picture(title=title, subtitle=measurement_subtitle(measurement), charts=charts)
