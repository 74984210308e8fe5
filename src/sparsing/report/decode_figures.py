"""Speed-up against activation ratio, measured and allowed by bytes, one panel per shape and dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from sparsing.report.style import MARKERS, MUTED, PALETTE, new_figure, plain_numbers, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sparsing.bench.block_result import FFNBench, FFNLine

_PANEL = 2.1
"""Inches of height."""


@styled()
def speedup_curves(bench: FFNBench, batch: int) -> Figure:
    """Lines are measured with their quartiles, dashes of the same colour are the byte ceiling."""
    groups = [group for group in bench.groups() if group[2] == batch]
    columns = min(len(groups), 3)
    rows = -(-len(groups) // columns)
    figure = new_figure(
        0.9 + _PANEL * rows,
        f"Speed-up of a feed-forward block, batch {batch}",
        f"against the fastest dense engine; dashes: byte ceiling; {bench.processor}, {bench.threads} threads;"
        " planted weights",
    )
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True).flatten()
    for panel, (shape, dtype, _) in zip(axes, groups, strict=False):
        _panel(panel, f"{shape}, {dtype}", bench.of(shape, dtype, batch))
    for panel in axes[len(groups) :]:
        panel.set_axis_off()
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper")  # over no curve
    return figure


def _panel(axes: Axes, title: str, lines: list[FFNLine]) -> None:
    names = list(dict.fromkeys(line.name for line in lines if not line.dense))
    for name, colour, marker in zip(names, PALETTE, MARKERS, strict=False):
        found = sorted((line for line in lines if line.name == name), key=lambda line: line.active_ratio or 0)
        ratios = [line.active_ratio or 0 for line in found]
        axes.plot(ratios, [line.speedup for line in found], color=colour, marker=marker, label=name)
        axes.vlines(
            ratios,
            [line.speedup_low for line in found],
            [line.speedup_high for line in found],
            colors=colour,
            linewidth=1,
        )
        axes.plot(ratios, [line.byte_ceiling for line in found], color=colour, linestyle="--", linewidth=0.8)
    axes.axhline(1, color=MUTED, linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yscale("log", base=2)
    axes.set_title(title)
    axes.set_xlabel("activation ratio")
    axes.set_ylabel("speed-up")
    plain_numbers(axes.xaxis)
    plain_numbers(axes.yaxis)
