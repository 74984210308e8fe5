"""Pictures of one measurement: tokens, layers, thresholds, neurons, positions.

Each function takes a saved `Measurement` (or `Curves`) and returns a matplotlib figure; `save_all` writes
those that apply. Pictures of several measurements are in `compare_figures.py`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from sparsing.report import style
from sparsing.report.labels import drawable, model_label, token_label
from sparsing.report.style import BLUE, INK, MUTED, VERMILION, new_figure, save, save_image, styled, whiskers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sparsing.measuring.measurement import Measurement
    from sparsing.rules.curves import Curves, ScoreCurve

__all__ = [
    "all_figures",
    "calibration_curves",
    "layer_ratios",
    "layer_thresholds",
    "neuron_frequency",
    "position_ratios",
    "save",
    "save_all",
    "save_image",
    "token_layer_heatmap",
]

DEAD_BELOW = 1e-3
"""A neuron is dead when active on less than this share of tokens (Sparsing Law, section 5)."""
RARE_BELOW = 0.01
"""Neurons rarer than this cannot be told from dead ones without a log scale."""


def save_all(measurement: Measurement, folder: str | Path, curves: Curves | None = None) -> list[Path]:
    """Write `all_figures` into `folder`, PNG and SVG; returns the files.

    Raises:
        InputError: the folder cannot be written or the disk is full.
    """
    figures = all_figures(measurement, curves)
    return [path for name, figure in figures.items() for path in save(figure, folder, name)]


def all_figures(measurement: Measurement, curves: Curves | None = None) -> dict[str, Figure]:
    """Every picture that applies, by name.

    The log view of neuron frequency is left out where no neuron is rare, the calibration curves where `curves`
    is not given or does not hold the score that was cut.
    """
    figures = {
        "layer_ratios": layer_ratios(measurement),
        "layer_thresholds": layer_thresholds(measurement),
        "neuron_frequency": neuron_frequency(measurement),
        "position_ratios": position_ratios(measurement),
    }
    if measurement.token_text:
        figures["token_layer_heatmap"] = token_layer_heatmap(measurement)
    if np.nanmin(measurement.neuron_frequency) < RARE_BELOW:
        figures["neuron_frequency_log"] = neuron_frequency(measurement, log=True)
    if curves is not None and measurement.thresholds.on in curves.scores:
        figures["calibration_curves"] = calibration_curves(curves, measurement)
    return figures


@styled()
def token_layer_heatmap(measurement: Measurement, *, num_tokens: int = 48) -> Figure:
    """Activation ratio of each token in each layer, as in the sample figure of Sparsing Law.

    Args:
        num_tokens: At most this many of the first tokens are drawn; more than 48 labels touch.
    """
    ratios = measurement.token_activation_ratio[:num_tokens].T  # (n_layers, shown)
    n_layers, shown = ratios.shape
    height = 2.0 + min(max(0.16 * n_layers, 0.8), 4.5)
    figure = new_figure(height, "Activation ratio of each token in each layer", subtitle(measurement))
    axes = figure.subplots()
    image = axes.imshow(ratios, aspect="auto", origin="lower", cmap="viridis", interpolation="nearest")
    axes.grid(visible=False)
    labels = [token_label(text) for text in measurement.token_text[:shown]]
    axes.set_xticks(range(shown), labels, rotation=90, fontsize=min(8.0, 330 / max(shown, 1)))
    axes.tick_params(length=2)
    style.whole_ticks(axes, n_layers, "y")
    axes.set(xlabel="token, in reading order", ylabel="layer")
    figure.colorbar(image, ax=axes, label="activation ratio", pad=0.015, aspect=max(8, 5 * (height - 2)))
    return figure


@styled()
def layer_ratios(measurement: Measurement) -> Figure:
    """Activation ratio of each layer with its interval, and their mean."""
    ratios = np.array(measurement.layer_activation_ratio)
    layers = range(len(ratios))
    figure = new_figure(2.9, "Activation ratio of each layer", subtitle(measurement))
    axes = figure.subplots()
    whiskers(axes, layers, measurement.layer_activation_ratio_interval, colour=BLUE)
    axes.plot(layers, ratios, "o", color=BLUE)
    mean = measurement.activation_ratio
    interval = measurement.activation_ratio_interval
    if interval and style.is_interval(interval):
        axes.axhspan(*interval, color=VERMILION, alpha=0.15, linewidth=0)
    axes.axhline(mean, color=VERMILION, linewidth=1, zorder=1)
    axes.set_title(f"mean {mean:.3f}; {_doubt(measurement)}", color=VERMILION)
    style.whole_ticks(axes, len(ratios))
    axes.set(xlabel="layer", ylabel="activation ratio")
    _ratio_limits(axes)
    return figure


@styled()
def layer_thresholds(measurement: Measurement) -> Figure:
    """The threshold of each layer, and its realised CETT beside the requested one.

    A rule that keeps a share of the neurons has no threshold; it gets the second panel only.
    """
    cuts = measurement.thresholds.selection.is_threshold
    title = "Where each layer is cut, and what the cut costs" if cuts else "What the cut costs each layer"
    figure = new_figure(4.6 if cuts else 2.9, title, subtitle(measurement))
    panels = figure.subplots(2 if cuts else 1, squeeze=False, sharex=True)[:, 0]
    if cuts:
        _draw_thresholds(panels[0], measurement)
    _draw_cett(panels[-1], measurement)
    style.whole_ticks(panels[-1], len(measurement.cett_dense_inputs))
    panels[-1].set_xlabel("layer")
    return figure


@styled()
def neuron_frequency(measurement: Measurement, *, log: bool = False) -> Figure:
    """Share of tokens on which each neuron is active, sorted within its layer.

    Args:
        log: Log scale, for rare neurons; a neuron that was never active lies on the lower edge.
    """
    rows = measurement.neuron_frequency  # (n_layers, d_ff)
    title = "How often each neuron is active" + (", log scale" if log else "")
    figure = new_figure(3.2, title, subtitle(measurement))
    axes = figure.subplots()
    floor = min(0.5 / measurement.num_tokens, DEAD_BELOW / 2)
    colours = style.depth_colours(len(rows))
    for layer, row in enumerate(rows):
        # a layer narrower than the widest one is padded with NaN
        values = np.sort(row[np.isfinite(row)])[::-1]
        rank = (np.arange(len(values)) + 0.5) / max(len(values), 1)
        look = {"color": colours(layer), "linewidth": style.line_width(len(rows))}
        shown = np.maximum(values, floor) if log else values
        axes.plot(rank, shown, marker="o" if len(values) == 1 else None, **look)
    dead = f"dead (below {DEAD_BELOW:.1%} of tokens): {np.mean(measurement.dead_neuron_ratio):.1%} of neurons"
    axes.axhline(DEAD_BELOW, color=VERMILION, linewidth=1, linestyle="--")
    axes.set_title(dead, color=VERMILION)
    axes.set(xlabel="rank of the neuron, share of d_ff", ylabel="share of tokens where active", xlim=(0, 1))
    if log:
        axes.set_yscale("log")
        style.plain_numbers(axes.yaxis)
        axes.set_ylim(floor, 1.3)
    else:
        axes.set_ylim(-0.02, 1.02)
    style.depth_bar(figure, axes, len(rows))
    return figure


@styled()
def position_ratios(measurement: Measurement) -> Figure:
    """Mean activation ratio by position in the window, and its running mean."""
    ratios = np.asarray(measurement.position_activation_ratio, dtype=np.float64)
    at = np.flatnonzero(np.isfinite(ratios))
    figure = new_figure(2.9, "Activation ratio by position in the window", subtitle(measurement))
    axes = figure.subplots()
    span = max(1, len(at) // 32) | 1
    smooth = span >= 5
    if not smooth:
        axes.plot(at, ratios[at], color=BLUE, marker="o")
    else:
        axes.plot(at, ratios[at], ".", color=style.SKY, markersize=3, alpha=0.5)
        middle = at[span // 2 : len(at) - span // 2]
        axes.plot(middle, np.convolve(ratios[at], np.ones(span) / span, mode="valid"), color=BLUE)
        axes.set_title(f"dots: mean over layers and windows; line: running mean of {span} positions")
    axes.set(xlabel="position in the window, tokens", ylabel="activation ratio")
    style.whole_ticks(axes, len(ratios))
    return figure


@styled()
def calibration_curves(curves: Curves, measurement: Measurement) -> Figure:
    """Activation ratio of each layer against its CETT in the dense pass, with the cut that was chosen."""
    curve: ScoreCurve = curves.scores[measurement.thresholds.on]
    figure = new_figure(3.2, "What each layer keeps at a given CETT", subtitle(measurement))
    axes = figure.subplots()
    n_layers = len(curve.cett)
    colours = style.depth_colours(n_layers)
    for layer in range(n_layers):
        axes.plot(
            curve.cett[layer], curve.ratio[layer], color=colours(layer), linewidth=style.line_width(n_layers)
        )
    chosen = [
        np.interp(found, cett, ratio)
        for found, cett, ratio in zip(measurement.cett_dense_inputs, curve.cett, curve.ratio, strict=True)
    ]
    axes.scatter(
        measurement.cett_dense_inputs,
        chosen,
        c=[colours(layer) for layer in range(n_layers)],
        edgecolors=INK,
        linewidths=0.7,
        s=22,
        zorder=3,
    )
    axes.set_title(f"lines: {curves.sampled_tokens:,} tokens of the dense pass; dots: the cut in use")
    axes.set(xlabel="CETT, dense inputs", ylabel="activation ratio", xlim=(0, 1.05), ylim=(0, None))
    style.depth_bar(figure, axes, n_layers)
    return figure


def subtitle(measurement: Measurement) -> str:
    """What was measured, on one line."""
    cost = f"perplexity x {measurement.ppl_ratio:.4f}"
    corpus = drawable(Path(measurement.provenance.corpus).name)
    tokens = f"{measurement.num_tokens:,} tokens" + (f" of {corpus[:40]}" if corpus else "")
    return "  |  ".join([model_label(measurement.provenance), measurement.name, cost, tokens])


def _doubt(measurement: Measurement) -> str:
    """What the bars of the layers and the band of the mean stand for."""
    if not style.is_interval(measurement.activation_ratio_interval):
        return "one window has no interval"
    if measurement.target_ppl_ratio is None:
        return "bars and band: 95% intervals"
    return "bars: 95% at these thresholds; band: 95% with the doubt about the level"


def _draw_thresholds(axes: Axes, measurement: Measurement) -> None:
    values = np.array(measurement.thresholds.numbers)
    axes.plot(range(len(values)), values, "o", color=BLUE)
    if values.min() > 0 and values.max() / values.min() > 20:
        axes.set_yscale("log")
        style.plain_numbers(axes.yaxis)
    else:
        axes.set_ylim(0, 1.1 * values.max() or 1)
    axes.set_ylabel("threshold")
    axes.set_title(f"active when {measurement.thresholds.on} is above the threshold")


def _draw_cett(axes: Axes, measurement: Measurement) -> None:
    layers = np.arange(len(measurement.cett_dense_inputs))
    if measurement.rule == "cett" and math.isfinite(measurement.level):
        axes.axhline(measurement.level, color=MUTED, linewidth=1, label=f"requested {measurement.level:.4g}")
    axes.plot(layers, measurement.cett_dense_inputs, "o", color=BLUE, label="dense inputs (the definition)")
    axes.plot(
        layers, measurement.cett_sparse_inputs, "s", color=VERMILION, mfc="none", label="in the sparse run"
    )
    axes.set_ylabel("CETT")
    low, high = axes.get_ylim()
    room = 0.15 * float(
        np.mean(measurement.cett_dense_inputs)
    )  # or rounding errors would look like differences
    axes.set_ylim(max(0, low - room), high + room)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1), ncols=3, borderaxespad=0, columnspacing=1.2)


def _ratio_limits(axes: Axes) -> None:
    """From 0 where the data is near enough, so that heights can be compared by eye."""
    low, high = axes.get_ylim()
    axes.set_ylim(0 if low < 0.5 * high else low, min(high, 1.02))
