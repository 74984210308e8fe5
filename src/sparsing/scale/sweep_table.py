"""The table of a finished sweep: one row per level of each measurement, and per score of each evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsing.base.results import write_atomic
from sparsing.report.saved_results import Runs, read_runs
from sparsing.scale.cell import DONE, Cell, CellRecord

if TYPE_CHECKING:
    from pandas import DataFrame

    from sparsing.evaluation.outcome import Evaluation
    from sparsing.measuring.measurement import Measurement


def sweep_table(cells: Sequence[Cell], records: Sequence[CellRecord]) -> DataFrame:
    """All results as one table.

    The columns are those that distinguish the cells (`model`, `text`, `rule`, `task`), how the cell ended (`outcome`,
    `attempts`, `wall_sec`, `message`) and the figures. A cell that is not done has one row without figures.
    """
    import pandas

    rows = [
        {"cell": cell.name, **cell.labels, **_ending(record), **figures}
        for cell, record in zip(cells, records, strict=True)
        for figures in (_figures(read_runs([cell.folder])) if record.outcome == DONE else [{}])
    ]
    return pandas.DataFrame(rows)


def save_table(table: DataFrame, path: Path) -> Path:
    """Writes the table as parquet, atomically. Returns the path."""
    write_atomic(path, lambda temporary: table.to_parquet(temporary, index=False))
    return path


def _ending(record: CellRecord) -> dict[str, Any]:
    return {
        "outcome": record.outcome,
        "attempts": record.attempts,
        "wall_sec": record.wall_sec,
        "message": record.message,
    }


def _figures(runs: Runs) -> list[dict[str, Any]]:
    measured = [_of_measurement(measurement) for measurement in runs.measurements]
    return measured + [row for evaluation in runs.evaluations for row in _of_evaluation(evaluation)]


def _of_measurement(result: Measurement) -> dict[str, Any]:
    low, high = result.activation_ratio_interval or (None, None)
    ratio_low, ratio_high = result.ppl_ratio_interval or (None, None)
    heldout = result.heldout
    held_low, held_high = (heldout and heldout.ppl_ratio_interval) or (None, None)
    return {
        "name": result.name,
        "level": result.level,
        "target_ppl_ratio": result.target_ppl_ratio,
        "activation_ratio": result.activation_ratio,
        "activation_ratio_low": low,
        "activation_ratio_high": high,
        "ppl_ratio": result.ppl_ratio,
        "ppl_ratio_low": ratio_low,
        "ppl_ratio_high": ratio_high,
        "ppl_dense": result.ppl_dense,
        "num_tokens": result.num_tokens,
        # the figures above are of the tokens that decided the thresholds
        "heldout_ppl_ratio": heldout and heldout.ppl_ratio,
        "heldout_ppl_ratio_low": held_low,
        "heldout_ppl_ratio_high": held_high,
        "heldout_activation_ratio": heldout and heldout.activation_ratio,
        "heldout_tokens": heldout and heldout.num_tokens,
        "converged": result.converged,
        "monotone": result.monotone,
        "train_tokens": result.provenance.train_tokens,
    }


def _of_evaluation(result: Evaluation) -> list[dict[str, Any]]:
    return [
        {
            "name": row.level,
            "metric": row.title,
            "score": row.score,
            "score_stderr": row.stderr,
            "score_change": row.difference,
            "num_items": row.num_items,
            "decode_activation_ratio": row.decode_activation_ratio,
            "prefill_activation_ratio": row.prefill_activation_ratio,
        }
        for row in result.rows
    ]
