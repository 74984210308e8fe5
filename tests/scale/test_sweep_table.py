"""The table of a sweep has the figures of saved results, and a row for a cell that is not done."""

from __future__ import annotations

from pathlib import Path

import pandas
import pytest

from sparsing.measuring.measurement import HeldOut
from sparsing.measuring.run_folder import save_measurement
from sparsing.scale.cell import DONE, FAILED, Cell, CellRecord
from sparsing.scale.sweep_table import save_table, sweep_table

from ..helpers.measurements import make_measurement
from ..helpers.outcomes import evaluation, outcome


def ended(cell: Cell, outcome: str, message: str = "") -> CellRecord:
    fields = {"name": cell.name, "labels": cell.labels, "identity": cell.identity, "host": "here"}
    return CellRecord(**fields, outcome=outcome, attempts=2, wall_sec=1.5, message=message)


def test_each_level_and_each_score_has_a_row(tmp_path: Path):
    heldout = HeldOut(
        num_tokens=100,
        ppl_dense=9.0,
        ppl_sparse=9.36,
        ppl_ratio=1.04,
        ppl_ratio_interval=(1.02, 1.06),
        activation_ratio=0.41,
    )
    one, other = make_measurement(heldout=heldout), make_measurement(target_ppl_ratio=None, heldout=None)
    measured, evaluated, failed = (
        Cell(name=name, labels={"model": "m", "rule": name}, folder=tmp_path / name, commands=())
        for name in ("measured", "evaluated", "failed")
    )
    save_measurement(one, measured.folder / "a")
    save_measurement(other, measured.folder / "b")
    evaluation(outcome("dense", [1.0, 0.0]), outcome("cett 0.2", [0.0, 0.0])).save(
        evaluated.folder / "evaluation.json"
    )
    records = [ended(measured, DONE), ended(evaluated, DONE), ended(failed, FAILED, "no such model")]
    table = sweep_table([measured, evaluated, failed], records)
    table = pandas.read_parquet(save_table(table, tmp_path / "t.parquet"))
    assert table["cell"].tolist() == ["measured"] * 2 + ["evaluated"] * 2 + ["failed"]
    assert table["outcome"].tolist() == [DONE] * 4 + [FAILED]
    first, second = (row for _, row in table[:2].iterrows())
    assert (first["activation_ratio"], first["ppl_ratio"]) == (one.activation_ratio, one.ppl_ratio)
    # the tokens that decided the thresholds say less than held-out tokens
    assert first["heldout_ppl_ratio"] == 1.04
    assert (first["heldout_ppl_ratio_low"], first["heldout_ppl_ratio_high"]) == (1.02, 1.06)
    assert (first["heldout_activation_ratio"], first["heldout_tokens"]) == (0.41, 100)
    assert second[[name for name in table if name.startswith("heldout")]].isna().all()
    assert table["score"][2:4].tolist() == [pytest.approx(0.5), pytest.approx(0.0)]
    assert table.iloc[4][["activation_ratio", "score"]].isna().all()
    assert table.iloc[4]["message"] == "no such model"
