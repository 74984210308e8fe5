"""The tables of decoding benchmarks for the terminal and the docs: a header and rows of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparsing.report.measurement_tables import Rows, percent

if TYPE_CHECKING:
    from sparsing.bench.block_result import BlockBenchmark, BlockTiming
    from sparsing.bench.common_result import Benchmark
    from sparsing.bench.model_result import ModelBenchmark, ModelTiming

_NONE = "-"


def ffn_tables(bench: BlockBenchmark) -> dict[str, Rows]:
    """One table for each shape, dtype and batch, by title."""
    return {
        f"FFN of {shape}, {dtype}, batch {batch}, {bench.threads} threads": ffn_table(
            bench.of(shape, dtype, batch)
        )
        for shape, dtype, batch in bench.groups()
    }


def ffn_table(lines: Sequence[BlockTiming]) -> Rows:
    """One row per engine and ratio; at each ratio the dense engines come first."""
    header = ["engine", "ratio", "active", "read", "predicted", "recall", "ms", "quartiles", "speed-up"]
    header += ["limit by bytes", "reached", "MB", "GB/s", "of bandwidth"]
    ordered = sorted(lines, key=lambda line: (line.ratio or 0, not line.dense))
    return header, [_ffn_row(line) for line in ordered]


def _ffn_row(line: BlockTiming) -> list[str]:
    return [
        line.name,
        _share(line.ratio),
        _share(line.active_ratio),
        _NONE if line.dense else _share(line.read_ratio),
        _share(line.predicted_ratio),
        _share(line.recall),
        f"{line.ms:.3f}",
        f"{line.ms_low:.2f}-{line.ms_high:.2f}",
        f"{line.speedup:.2f}",
        f"{line.byte_ceiling:.2f}",
        percent(line.ceiling_share, 0),
        f"{line.bytes_moved / 1e6:.1f}",
        f"{line.bytes_per_sec / 1e9:.1f}",
        percent(line.bandwidth_share, 0),
    ]


def whole_tables(bench: ModelBenchmark) -> dict[str, Rows]:
    """One table for each shape and dtype, by title."""
    context = f"context {bench.prompt_tokens} to {bench.prompt_tokens + bench.new_tokens}"
    return {
        f"generate(), {title}, batch 1, {bench.threads} threads, {context}": whole_table(lines)
        for title, lines in bench.groups().items()
    }


def whole_table(lines: Sequence[ModelTiming]) -> Rows:
    """One row per engine and ratio."""
    rivals = list(lines[0].speedups)
    header = ["engine", "ratio", "active", "recall", "tok/s", "ms", "quartiles", "MB", "of bandwidth"]
    header += ["limit by bytes", "reached", *(f"/ {name}" for name in rivals)]
    return header, [_whole_row(line, rivals) for line in lines]


def _whole_row(line: ModelTiming, rivals: list[str]) -> list[str]:
    return [
        line.name,
        _share(line.ratio),
        _share(line.active_ratio),
        _share(line.recall),
        f"{line.tok_per_sec:.2f}",
        f"{line.ms:.1f}",
        f"{line.ms_low:.1f}-{line.ms_high:.1f}",
        f"{line.bytes_per_token / 1e6:.0f}",
        percent(line.bandwidth_share, 0),
        f"{line.byte_ceiling:.2f}",
        percent(line.ceiling_share, 0),
        *(f"{line.speedups[name]:.2f}" for name in rivals),
    ]


def notes(bench: Benchmark) -> list[str]:
    """Explanations that belong below the tables: machine, memory, weights, meaning of the columns."""
    measured = bench.bandwidth
    lines = [
        f"{bench.processor}, {bench.threads} threads",
        f"medians of {bench.rounds} rounds; in each round every engine is timed once",
        f"bandwidth: the larger of the read bandwidth ({measured.read_bytes_per_sec / 1e9:.1f} GB/s) and the copy"
        f" bandwidth ({measured.copy_bytes_per_sec / 1e9:.1f} GB/s), {measured.threads} threads",
        f"weights: {bench.weights}",
        "limit by bytes: bytes of the dense block or model over the bytes that this engine reads; reached: speed-up"
        " (of whole models: over own dense) divided by this limit; of bandwidth: bytes per second over the bandwidth",
    ]
    return [*lines, *(f"left out: {why}" for why in bench.left_out)]


def markdown(rows: Rows) -> str:
    """The table as Markdown, numbers aligned right."""
    header, body = rows
    lines = [header, ["---", *("---:" for _ in header[1:])], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _share(value: float | None) -> str:
    return _NONE if value is None else percent(value, 1)
