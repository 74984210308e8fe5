"""The tables of an evaluation by hand: the tables of the paper, the overview, CSV and Markdown."""

from __future__ import annotations

import csv
import io

from sparsing.evaluation.outcome import DENSE
from sparsing.evaluation.tables import overview, paper_tables, to_csv

from ..helpers.outcomes import evaluation, outcome


def test_tables_of_the_paper():
    result = evaluation(
        outcome(DENSE, [1, 0]),
        outcome("PPL-1%", [0, 0]),
        outcome(DENSE, [1, 1], "siqa", title="SIQA"),
        outcome("PPL-1%", [1, 0], "siqa", title="SIQA"),
        outcome(DENSE, [1, 1, 0, 0], "boolq", "reading", "BoolQ"),
        outcome("PPL-1%", [1, 0, 0, 0], "boolq", "reading", "BoolQ"),
    )
    one, four, five = paper_tables(result)
    assert one.header == ["setting", "Commonsense (2 of 5 columns)", "Reading comprehension (1 of 4 columns)"]
    assert one.rows == [["dense", "75.0", "50.0"], ["PPL-1%", "25.0", "25.0"]]
    assert four.header == ["setting", "PIQA", "SIQA", "Avg"]
    assert four.rows == [["dense", "50.0", "100.0", "75.0"], ["PPL-1%", "0.0", "50.0", "25.0"]]
    assert five.rows[1] == ["PPL-1%", "25.0", "25.0"]
    assert "| PPL-1% | 0.0 | 50.0 | 25.0 |" in four.markdown()


def test_text_and_csv():
    result = evaluation(outcome(DENSE, [1, 0]), outcome("PPL-1%", [0, 0]))
    assert overview(result).rows[1][:5] == ["PIQA", "PPL-1%", "0.00", "0.00", "-50.00"]
    lines = list(csv.DictReader(io.StringIO(to_csv(result))))
    assert [float(line["score"]) for line in lines] == [0.5, 0.0]
    assert lines[0]["difference"] == ""
    assert float(lines[1]["difference_low"]) <= -0.5 <= float(lines[1]["difference_high"])
