"""Charts of decoding speed: speed-up of a block against activation ratio, and the rows of an advice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparsing.report.chart import NEUTRAL, Axis, Chart, Mark, Mode, Picture, Series, interval_columns

if TYPE_CHECKING:
    from sparsing.bench.block_result import BlockBenchmark, BlockTiming
    from sparsing.decode.advice.result import Advice, AdviceRow

DENSE_MARK = Mark(at=1.0, label="dense")


def speedup_picture(bench: BlockBenchmark, batch: int) -> Picture:
    """Speed-up against activation ratio with the limits by bytes, one chart per shape and dtype."""
    charts = [
        _speedup_chart(f"{shape}, {dtype}", bench.of(shape, dtype, size))
        for shape, dtype, size in bench.groups()
        if size == batch
    ]
    return Picture(
        title=f"Speed-up of a feed-forward block, batch {batch}",
        subtitle="against the fastest dense engine; bars: quartiles; dashes: limit by bytes;"
        f" {bench.processor}, {bench.threads} threads; planted weights",
        charts=charts,
        columns=3,
    )


def _speedup_chart(title: str, lines: Sequence[BlockTiming]) -> Chart:
    names = dict.fromkeys(line.name for line in lines if not line.dense)
    return Chart(
        title=title,
        x=Axis(label="activation ratio", scales=("log", "linear")),
        y=Axis(label="speed-up", scales=("log", "linear")),
        series=[
            part
            for colour, name in enumerate(names)
            for part in _speedup_series(name, [line for line in lines if line.name == name], colour)
        ],
        marks=[DENSE_MARK],
    )


def _speedup_series(name: str, lines: Sequence[BlockTiming], colour: int) -> list[Series]:
    """The measured speed-ups with their quartiles, and their limits by bytes in the same colour."""
    lines = sorted(lines, key=lambda line: line.active_ratio or 0)
    ratios = [line.active_ratio or 0 for line in lines]
    measured = Series(
        name=name,
        x=ratios,
        y=[line.speedup for line in lines],
        y_low=[line.speedup_low for line in lines],
        y_high=[line.speedup_high for line in lines],
        colour=colour,
    )
    limit = Series(
        name=f"{name}, limit by bytes",
        x=ratios,
        y=[line.byte_ceiling for line in lines],
        mode="lines",
        dashed=True,
        colour=colour,
        listed=False,
    )
    return [measured, limit]


def advice_picture(advice: Advice) -> Picture:
    """The speed-up of each row of the advice, with the speed-up that its bytes allow and the ceiling."""
    origin = advice.provenance
    peak = advice.roofline.bandwidth.peak_bytes_per_sec / 1e9
    title = f"What sparsity buys in decoding, {advice.threads} threads, batch 1"
    return Picture(
        title=title,
        subtitle=f"{origin.model}, {origin.dtype}, {advice.weights.total_bytes / 1e6:.3g} MB a token,"
        f" {advice.ffn_share:.0%} feed-forward; memory {peak:.3g} GB/s",
        charts=[_advice_chart(title, advice.rows)],
    )


def _advice_chart(title: str, rows: Sequence[AdviceRow]) -> Chart:
    numbered = list(enumerate(rows))
    groups = [
        _advice_series(
            "measured", [(i, row) for i, row in numbered if row.measured], mode="points", colour=0
        ),
        _advice_series(
            "estimated from the bytes, no kernel",
            [(i, row) for i, row in numbered if not row.measured],
            mode="open",
            colour=0,
        ),
    ]
    positions = range(len(rows))
    most = max(1.0, *(max(row.speedup, row.byte_speedup, row.ceiling) for row in rows))
    return Chart(
        title=title,
        note="Against dense decoding by the same kernels; bars: quartiles over pairs of runs.",
        x=Axis(label="speed-up, times dense", low=0.0, high=1.12 * most),
        y=Axis(label="rule, method", names=[_advice_label(row) for row in rows]),
        series=[
            Series(
                name="bandwidth-limited speed-up",
                x=[row.byte_speedup for row in rows],
                y=positions,
                mode="open",
                colour=1,
            ),
            Series(
                name="ceiling, active neurons known at no cost",
                x=[row.ceiling for row in rows],
                y=positions,
                mode="open",
                colour=NEUTRAL,
            ),
            *(series for series in groups if len(series.x)),
        ],
        marks=[Mark(axis="x", at=1.0, label="dense")],
    )


def _advice_series(name: str, rows: Sequence[tuple[int, AdviceRow]], *, mode: Mode, colour: int) -> Series:
    quartiles = [row.speedup_quartiles for _, row in rows]
    low, high = interval_columns([None if values is None else (values[0], values[2]) for values in quartiles])
    return Series(
        name=name,
        x=[row.speedup for _, row in rows],
        y=[index for index, _ in rows],
        x_low=low,
        x_high=high,
        values=[f"{row.speedup:.2f}" for _, row in rows],
        mode=mode,
        colour=colour,
    )


def _advice_label(row: AdviceRow) -> str:
    cost = 100 * (row.target_ppl_ratio - 1)
    return f"{row.rule} PPL-{cost:g}%, {row.way} ({row.activation_ratio:.1%} active)"
