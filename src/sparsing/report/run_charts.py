"""Charts of one measurement: layers, thresholds, CETT, how often neurons fire, positions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sparsing.report.charts import Chart, Mark, Series, columns, thinned

if TYPE_CHECKING:
    from sparsing.measuring.measurement import Measurement

DEAD_BELOW = 1e-3
"""A neuron is dead when active on less than this share of tokens (Sparsing Law, section 5)."""
CURVE_POINTS = 160
"""Points of a frequency curve; a layer may have ten thousand neurons."""
POSITIONS = 400


def run_charts(result: Measurement) -> dict[str, Chart]:
    """Every chart that applies, by name, in reading order."""
    charts = {"layers": _layers(result)}
    if result.thresholds.selection.is_threshold:
        charts["thresholds"] = _thresholds(result)
    charts["cett"] = _cett(result)
    charts["frequency"] = frequency_chart(result.neuron_frequency, dead=_dead(result))
    if np.isfinite(result.position_activation_ratio).sum() > 1:
        charts["positions"] = _positions(result)
    return charts


def frequency_chart(frequency: np.ndarray, *, dead: str) -> Chart:
    """Sorted frequencies, a line per layer.

    Args:
        frequency: Share of tokens where each neuron is active, shape `(n_layers, d_ff)`; NaN beyond a narrower
            layer's neurons.
    """
    return Chart(
        title="How often each neuron is active",
        note=f"Neurons of a layer from the most to the least active. {dead}",
        x="rank of the neuron, share of d_ff",
        y="share of tokens where active",
        series=[_curve(f"layer {i}", row, i / max(len(frequency) - 1, 1)) for i, row in enumerate(frequency)],
        marks=[Mark(at=DEAD_BELOW, label="dead below 0.1%")],
        y_scales=("linear", "log"),
        highlight="layer" if len(frequency) > 1 else "",
    )


def _curve(name: str, frequency: np.ndarray, depth: float) -> Series:
    values = np.sort(frequency[np.isfinite(frequency)])[::-1]
    at = thinned(len(values), CURVE_POINTS)
    rank = (at + 0.5) / max(len(values), 1)
    return Series(name=name, x=rank.tolist(), y=values[at].tolist(), depth=depth, mode="lines", listed=False)


def _layers(result: Measurement) -> Chart:
    low, high = columns(result.layer_activation_ratio_interval)
    ratios = result.layer_activation_ratio
    return Chart(
        title="Activation ratio of each layer",
        note="Bars are 95% intervals over windows at these thresholds.",
        x="layer",
        y="activation ratio",
        series=[Series(name="layers", x=range(len(ratios)), y=ratios, y_low=low, y_high=high)],
        marks=[Mark(at=result.activation_ratio, label=f"mean {result.activation_ratio:.4f}")],
    )


def _thresholds(result: Measurement) -> Chart:
    values = result.thresholds.numbers
    wide = min(values) > 0 and max(values) / min(values) > 20
    return Chart(
        title="Threshold of each layer",
        note=f"A neuron is active when its {result.thresholds.on} is above the threshold.",
        x="layer",
        y=f"threshold on {result.thresholds.on}",
        series=[Series(name="threshold", x=range(len(values)), y=values)],
        y_scales=("log", "linear") if wide else ("linear", "log") if min(values) > 0 else ("linear",),
    )


def _cett(result: Measurement) -> Chart:
    layers = range(len(result.cett_dense_inputs))
    asked = result.rule == "cett" and math.isfinite(result.level)
    return Chart(
        title="CETT, requested and realised",
        note="Error of each layer's output that dropping neurons makes, as a share of the output. By definition"
        " the layers before are dense; in the sparse run they are not.",
        x="layer",
        y="CETT",
        series=[
            Series(name="dense inputs (the definition)", x=layers, y=result.cett_dense_inputs),
            Series(name="in the sparse run", x=layers, y=result.cett_sparse_inputs),
        ],
        marks=[Mark(at=result.level, label=f"requested {result.level:.4g}")] if asked else [],
        y_room=0.15,
    )


def _positions(result: Measurement) -> Chart:
    ratios = np.asarray(result.position_activation_ratio, dtype=np.float64)
    at = np.flatnonzero(np.isfinite(ratios))
    span = max(1, len(at) // 32) | 1
    shown = at[thinned(len(at), POSITIONS)]
    series = [Series(name="mean over layers and windows", x=shown.tolist(), y=ratios[shown], mode="points")]
    if span >= 5:
        smooth = np.convolve(ratios[at], np.ones(span) / span, mode="valid")
        middle = at[span // 2 : len(at) - span // 2]
        keep = thinned(len(middle), POSITIONS)
        name = f"running mean of {span} positions"
        series.append(Series(name=name, x=middle[keep].tolist(), y=smooth[keep], mode="lines"))
    return Chart(
        title="Activation ratio by position in the window",
        x="position in the window, tokens",
        y="activation ratio",
        series=series,
    )


def _dead(result: Measurement) -> str:
    shares: Sequence[float] = result.dead_neuron_ratio
    return f"Dead neurons, active on less than 0.1% of tokens: {100 * np.mean(shares):.1f}%."
