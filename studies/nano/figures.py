"""The figures of the study's page, drawn with matplotlib in the style of the reports; one function per figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from cells import SCALES, SHAPES, CellResult
from findings import ACTS, LAST, first_seeds, fit_law, fit_shapes, label, last_ratio, size, width_over_depth
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparsing.laws.points import BILLION
from sparsing.report.style import MARKERS, MUTED, PALETTE, new_figure, plain_numbers, styled, whiskers


@styled()
def along_training(cells: Sequence[CellResult]) -> Figure:
    """Activation ratio against training tokens, one panel per activation, with the fitted laws as lines."""
    figure = new_figure(
        3.4, "Activation ratio along training", "points: one CETT per run; lines: the paper's laws"
    )
    for axes, (act, title) in zip(figure.subplots(1, 2), ACTS.items(), strict=True):
        for cell in _first_seed_cells(cells, SCALES, act):
            colour, marker = _colour_and_marker(SCALES.index(cell.preset))
            tokens = np.array([p.tokens for p in cell.track.points])
            axes.plot(tokens, _ratios(cell), marker, color=colour, label=size(cell))
            whiskers(axes, tokens.tolist(), _bars(cell), colour=colour, width=0.8)
            law = fit_law(cell)
            grid = np.geomspace(law.kept_x[0], law.kept_x[-1], 200)
            axes.plot(grid * BILLION, 100 * law.curve(grid), color=colour, linewidth=1)
        axes.set_xscale("log")
        plain_numbers(axes.xaxis, unit=1e6)
        axes.set(title=title, xlabel="training tokens, millions", ylabel="activation ratio, %")
        _legend(axes)
    return figure


@styled()
def against_loss(cells: Sequence[CellResult]) -> Figure:
    """Activation ratio against held-out loss, for both activations."""
    figure = new_figure(3.4, "Activation ratio at equal quality", "training goes from right to left")
    axes = figure.add_subplot()
    for act, line in zip(ACTS, ("-", "--"), strict=True):
        for cell in _first_seed_cells(cells, SCALES, act):
            colour, marker = _colour_and_marker(SCALES.index(cell.preset))
            losses = [p.loss for p in cell.track.points]
            axes.plot(losses, _ratios(cell), line, marker=marker, color=colour, label=label(cell))
    axes.set(xlabel="held-out loss, nats per token", ylabel="activation ratio, %")
    _legend(axes, columns=2)
    return figure


@styled()
def width_against_depth(cells: Sequence[CellResult]) -> Figure:
    """Final ratio and final loss against width over depth."""
    shapes = sorted(_first_seed_cells(cells, SHAPES, "relu"), key=width_over_depth)
    figure = new_figure(
        3.2, "Width against depth, ReLU", f"mean of the last {LAST} points; bars: their range"
    )
    left, right = figure.subplots(1, 2)
    x = [width_over_depth(cell) for cell in shapes]
    ends = [[(100 * p.activation_ratio, p.loss) for p in cell.track.points[-LAST:]] for cell in shapes]
    for axes, column, name in (
        (left, 0, "activation ratio, %"),
        (right, 1, "held-out loss, nats per token"),
    ):
        values = [[point[column] for point in end] for end in ends]
        axes.plot(x, [np.mean(v) for v in values], "o", color=PALETTE[0])
        whiskers(axes, x, [(min(v), max(v)) for v in values], colour=PALETTE[0])
        axes.set_xscale("log")
        plain_numbers(axes.xaxis)
        axes.set(xlabel="d_model / n_layers", ylabel=name)
    if (law := fit_shapes(shapes)) is not None:
        grid = np.geomspace(min(x), max(x), 200)
        left.plot(grid, 100 * law.curve(grid), color=MUTED, linewidth=1, label="linear, then flat")
        _legend(left)
    return figure


@styled()
def against_scale(cells: Sequence[CellResult]) -> Figure:
    """Final ratio against the number of parameters, for all seeds."""
    figure = new_figure(
        3.0, "Activation ratio at the end by scale", f"mean of the last {LAST} points; all seeds"
    )
    axes = figure.add_subplot()
    for act, colour, marker in zip(ACTS, PALETTE, MARKERS, strict=False):
        chosen = [c for c in cells if c.hidden_act == act and c.preset in SCALES]
        sizes = [c.num_parameters / 1e6 for c in chosen]
        axes.plot(sizes, [100 * last_ratio(c) for c in chosen], marker, color=colour, label=ACTS[act])
    axes.set_xscale("log")
    plain_numbers(axes.xaxis)
    axes.set(xlabel="parameters, millions", ylabel="activation ratio, %", ylim=(0, None))
    _legend(axes)
    return figure


@styled()
def losses(cells: Sequence[CellResult]) -> Figure:
    """Training loss of every cell, as a moving mean over 15 points."""
    figure = new_figure(3.4, "Training loss")
    axes = figure.add_subplot()
    for i, cell in enumerate(cells):
        window = np.ones(15) / 15  # the moving mean loses 7 points at both ends
        smooth = np.convolve(cell.loss, window, "valid")
        axes.plot(
            cell.loss_tokens[7:-7], smooth, color=PALETTE[i % len(PALETTE)], linewidth=1, label=cell.name
        )
    axes.set_xscale("log")
    plain_numbers(axes.xaxis, unit=1e6)
    axes.set(xlabel="training tokens, millions", ylabel="loss, nats per token, mean of 15 points")
    axes.legend(fontsize=6, ncols=2)
    return figure


def _first_seed_cells(cells: Sequence[CellResult], presets: Sequence[str], act: str) -> list[CellResult]:
    return [cell for cell in first_seeds(cells, presets) if cell.hidden_act == act]


def _colour_and_marker(index: int) -> tuple[str, str]:
    return PALETTE[index % len(PALETTE)], MARKERS[index % len(MARKERS)]


def _ratios(cell: CellResult) -> list[float]:
    return [100 * p.activation_ratio for p in cell.track.points]


def _bars(cell: CellResult) -> list[tuple[float, float] | None]:
    intervals = [p.activation_ratio_interval for p in cell.track.points]
    return [None if i is None else (100 * i[0], 100 * i[1]) for i in intervals]


def _legend(axes: Axes, columns: int = 1) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(ncols=columns)
