"""The picture of `sparsing advise`: speed-up of every rule and way, with what its bytes allow and the ceiling."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparsing.report.labels import drawable
from sparsing.report.style import BLUE, FAINT, INK, MUTED, VERMILION, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sparsing.decode.advice.result import Advice, AdviceRow


@styled()
def advice_figure(advice: Advice) -> Figure:
    """A bar per row, measured (solid) or promised by its bytes (pale), against 1 for dense by the same kernels."""
    rows = advice.rows
    title = f"What sparsity buys in decoding, {advice.threads} threads, batch 1"
    figure = new_figure(1.7 + 0.34 * len(rows), title, drawable(_subtitle(advice)))
    axes = figure.subplots()
    at = range(len(rows))
    colours = [BLUE if row.measured else FAINT for row in rows]
    axes.barh(at, [row.speedup for row in rows], height=0.55, color=colours, zorder=2)
    for i, row in enumerate(rows):
        axes.text(row.speedup, i, f" {row.speedup:.2f}", va="center", ha="left", fontsize=7.5, color=INK)
    marks = [row.byte_speedup for row in rows], [row.ceiling for row in rows]
    axes.scatter(
        marks[0], at, marker="|", s=160, color=VERMILION, zorder=4, label="allowed by the bytes read"
    )
    axes.scatter(
        marks[1], at, marker="D", s=22, color=MUTED, zorder=3, label="ceiling, active set known for free"
    )
    axes.axvline(1, color=INK, linewidth=0.8, zorder=3)
    axes.set_yticks(list(at), [drawable(_label(row)) for row in rows])
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set_xlim(0, 1.12 * max(*marks[1], *(row.speedup for row in rows), 1.0))
    axes.set_xlabel("times dense (same kernels); pale: promised by the bytes, no kernel")
    axes.legend(loc="upper left", bbox_to_anchor=(0, 1.0), ncols=2, frameon=False)
    axes.set_ylim(len(rows) - 0.5, -1.4)  # room for the legend above the bars
    return figure


def _label(row: AdviceRow) -> str:
    return (
        f"{row.rule} PPL-{100 * (row.target_ppl_ratio - 1):g}%, {row.way} ({row.activation_ratio:.1%} active)"
    )


def _subtitle(advice: Advice) -> str:
    where = advice.provenance
    peak = advice.roofline.bandwidth.peak_bytes_per_sec / 1e9
    return (
        f"{where.model}, {where.dtype}, {advice.weights.total_bytes / 1e6:.3g} MB a token,"
        f" {advice.ffn_share:.0%} feed-forward; memory {peak:.3g} GB/s"
    )
