"""The card, the warnings and the charts of an evaluation. Scores without an interval are not drawn."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys

import numpy as np
import pytest

from sparsing.cli import main
from sparsing.evaluation.outcome import DENSE
from sparsing.report.benchmark_section import benchmark_card
from sparsing.report.cautions import evaluation_cautions
from sparsing.report.charts.benchmark_charts import group_chart, score_chart
from sparsing.report.document import build_document
from sparsing.report.saved_results import Runs

from ..helpers.outcomes import evaluation, outcome, score

HALF = [1.0, 0.0] * 100


def test_the_card_says_the_change_and_where_it_comes_from():
    lower = [1.0, 0.0, 0.0, 0.0] * 50
    card = benchmark_card("m", evaluation(outcome(DENSE, HALF), outcome("low", lower), outcome("less", HALF)))
    assert (card.name, card.figure) == ("benchmarks at low", "-25.00")
    assert "mean change of 1 score" in card.sentence
    assert card.interval.startswith("95% interval -")
    assert dict(card.gains) == {
        "Commonsense, mean change": "-25.00 points",
        "activation ratio, prefill, by task": "30.0%",
        "items": "200",
        "time, dense to sparse": "1.5 s to 1.5 s",
    }


def test_items_and_time_of_a_task_with_two_scores_count_once():
    def two(level):
        one = outcome(level, HALF)
        return dataclasses.replace(one, scores=(score(HALF, "F1"), score(HALF, "EM")))

    gains = dict(benchmark_card("m", evaluation(two(DENSE), two("low"))).gains)
    assert (gains["items"], gains["time, dense to sparse"]) == ("200", "1.5 s to 1.5 s")


@pytest.mark.parametrize(
    ("items", "chance", "near"),
    [
        (HALF, 0.5, True),
        (HALF, 0.25, False),
        ([1.0] * 57 + [0.0] * 43, 0.5, True),  # 1.4 standard errors above chance
        ([1.0] * 62 + [0.0] * 38, 0.5, False),  # 2.5
        ([0.0] * 200, None, True),
        ([1.0] * 3 + [0.0] * 197, None, True),
        ([1.0] * 20 + [0.0] * 180, None, False),
    ],
)
def test_caution_near_chance(items, chance, near):
    table = evaluation(outcome(DENSE, items), outcome("low", items))
    rows = tuple(dataclasses.replace(row, chance=chance) for row in table.rows)
    notes = evaluation_cautions(dataclasses.replace(table, rows=rows))
    start = "The dense model does no better than guessing, or has nothing right: PIQA."
    assert [note.startswith(start) for note in notes] == [True] * near


def test_caution_on_few_items():
    names = [("piqa", "PIQA"), ("siqa", "SIQA")]
    few = [1.0] * 99
    both = evaluation(*(outcome(DENSE, few, task, title=title) for task, title in names))
    assert evaluation_cautions(both) == [
        "Fewer than 100 items: all 2 scores. More items narrow the intervals."
    ]
    one = evaluation(outcome(DENSE, few), outcome(DENSE, [*few, 1.0], "siqa", title="SIQA"))
    assert evaluation_cautions(one) == ["Fewer than 100 items: PIQA. More items narrow the intervals."]


def test_a_perplexity_is_in_the_table_and_not_in_the_charts():
    def perplexity(level, value):
        return dataclasses.replace(
            outcome(level, HALF, "wiki", ""), scores=(score([-1.0, -2.0], "perplexity", value=value),)
        )

    table = evaluation(perplexity(DENSE, 4.0), perplexity("low", 5.0))
    assert score_chart("m", table).series == []
    assert group_chart("m", table).series == []
    assert benchmark_card("m", table) is None
    document = build_document(Runs(evaluations=[table]))
    assert [section.title for section in document.sections] == ["Benchmarks"]
    assert document.sections[0].tables[0].rows[1][0] == "perplexity"


def test_charts_are_in_points_with_their_intervals():
    table = evaluation(
        outcome(DENSE, HALF),
        outcome("low", np.zeros(200)),
        outcome(DENSE, HALF, "siqa", title="SIQA"),
        outcome("low", HALF, "siqa", title="SIQA"),
    )
    (series,) = score_chart("m", table).series
    assert (series.name, list(series.x), list(series.y)) == ("low", [0, 1], [-50, 0])
    assert series.y_low[0] < -50 < series.y_high[0]
    (group,) = group_chart("m", table).series
    assert (group.name, list(group.y)) == ("Commonsense", [-25]), "all scores are those of the group"
    other = [outcome(level, HALF, "boolq", "reading", "BoolQ") for level in (DENSE, "low")]
    more = evaluation(outcome(DENSE, HALF), outcome("low", np.zeros(200)), *other)
    names = [series.name for series in group_chart("m", more).series]
    assert names == ["Commonsense", "Reading comprehension", "all 2 scores"]


def test_two_evaluations_of_one_model_are_told_apart():
    table = evaluation(outcome(DENSE, HALF), outcome("low", HALF))
    document = build_document(Runs(evaluations=[table, dataclasses.replace(table, limit=3)]))
    assert [card.model for card in document.cards] == ["m", "m (2)"]
    assert "first 3 items of each part" in document.sections[0].tables[2].caption


def test_an_evaluation_alone_makes_a_page_without_torch(tmp_path):
    evaluation(outcome(DENSE, HALF), outcome("low", HALF)).save(tmp_path / "evaluation.json")
    code = (
        "import sys; from sparsing.cli import main; "
        f"assert main(['report', {str(tmp_path)!r}, '-o', {str(tmp_path / 'r.html')!r}]) == 0; "
        "assert not {'torch', 'lm_eval'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert "benchmarks at low" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_an_evaluation_of_an_older_version(tmp_path, capsys):
    path = evaluation(outcome(DENSE, HALF)).save(tmp_path / "evaluation.json")
    version = re.compile('"schema_version": [0-9]+')
    path.write_text(version.sub('"schema_version": 1', path.read_text(), count=1))
    assert main(["report", str(tmp_path), "-o", str(tmp_path / "r.html")]) == 2
    assert "evaluation schema 1" in capsys.readouterr().err
