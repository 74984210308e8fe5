"""`sparsing compare`: rules at an equal downstream score, from arguments to the saved comparison."""

from __future__ import annotations

import json

import pytest

from sparsing.cli import main
from sparsing.measuring.frontier import RuleComparison

pytestmark = pytest.mark.usefixtures("lm_eval")


@pytest.mark.filterwarnings("ignore:.*too few to distinguish levels:UserWarning")
def test_tasks_add_the_order_at_an_equal_score(stories_folder, bench, shared, tmp_path, capsys):
    text = str(shared / "text" / "tinystories_maxme1.txt")
    command = ["compare", str(stories_folder), "--text", text, "--max-tokens", "3000", "--window", "256"]
    command += ["--rule", "cett", "top_k", "--steps", "3", "--device", "cpu", "--quiet", "-o", str(tmp_path)]
    tasks = ["--tasks", "copa,piqa", "--task-data", str(bench), "--limit", "4", "--score-drop", "5"]
    assert main([*command, *tasks]) == 0
    assert "a score 5 points below dense" in capsys.readouterr().out
    saved = RuleComparison.load(tmp_path / "comparison.json")
    (order,) = [order for order in saved.orders if order.target_ppl_ratio is None]
    assert order.target_score_drop == 0.05
    for rule, ratio in zip(order.rules, order.values, strict=True):
        assert min(point.activation_ratio for point in saved.of(rule)) <= ratio <= 1
    finished = list((tmp_path / "evaluate").glob("*/copa.json"))
    assert len(finished) == 1 + len(saved.points)
    assert json.loads((tmp_path / "evaluate" / "dense" / "piqa.json").read_text())["num_items"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--limit", "4"], "--limit would have no effect without --tasks"),
        (["--tasks", "copa", "--score-drop", "0"], "--score-drop is in points"),
        (["--tasks", "copa", "--rule", "griffin"], "--tasks cannot evaluate griffin"),
        (["--tasks", "cupa"], "cupa"),
    ],
)
def test_refused_before_the_model_is_loaded(arguments, message, bench, tmp_path, capsys):
    book = tmp_path / "book.txt"
    book.write_text("Some words.")
    command = ["compare", str(tmp_path / "no-model"), "--text", str(book), "-o", str(tmp_path / "out")]
    if "--tasks" in arguments:
        arguments = [*arguments, "--task-data", str(bench)]
    assert main([*command, "--quiet", *arguments]) == 2
    assert message in capsys.readouterr().err
