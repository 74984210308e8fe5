"""pass@k by hand; the published solutions of real problems pass and wrong programs fail."""

from __future__ import annotations

import pytest

from sparsing.errors import InputError, SparsityError
from sparsing.evaluation.code.code_eval import CodeEval, pass_at_k
from sparsing.evaluation.code.sandbox import run_program


@pytest.fixture
def metric():
    try:
        run_program("")
    except SparsityError as error:
        pytest.skip(f"needs Landlock and seccomp: {error}")
    metric = CodeEval()
    metric.allowed = True
    return metric


def test_pass_at_k_by_hand():
    assert pass_at_k(4, 1, 1) == 0.25
    assert pass_at_k(4, 2, 2) == pytest.approx(1 - 1 / 6)
    assert pass_at_k(4, 0, 4) == 0
    assert pass_at_k(4, 3, 2) == 1


def test_mean_over_problems(metric):
    tests = ["assert add(2, 3) == 5", "assert add(1, 1) == 2"]
    right, wrong = "def add(a, b): return a + b", "def add(a, b): return a * b"
    scores, results = metric.compute(references=tests, predictions=[[right, wrong], [wrong, wrong]], k=[1, 2])
    assert scores == {"pass@1": 0.25, "pass@2": 0.5}
    assert [end["passed"] for _, end in results[0]] == [True, False]
    assert results[1][0][1]["result"] == "AssertionError"


def test_nothing_runs_unless_allowed():
    with pytest.raises(InputError, match="--allow-code-execution"):
        CodeEval().compute(references=["assert True"], predictions=[["pass"]])


def test_published_solutions_pass(metric, bench, read_jsonl):
    for row in read_jsonl(bench / "humaneval" / "HumanEval.jsonl")[:12]:
        program = row["prompt"] + row["canonical_solution"]
        test = f"{row['test']}\ncheck({row['entry_point']})"
        scores, _ = metric.compute(
            references=[test], predictions=[[program, row["prompt"] + "    pass"]], k=[1]
        )
        assert scores == {"pass@1": 0.5}, row["task_id"]


@pytest.mark.slow
def test_all_published_solutions_pass(metric, bench, read_jsonl):
    """All 164 of HumanEval; 499 of the 500 of MBPP, since one test contains a date in the past."""
    rows = read_jsonl(bench / "humaneval" / "HumanEval.jsonl")
    failed = [
        row["task_id"]
        for row in rows
        if not run_program(
            f"{row['prompt']}{row['canonical_solution']}\n{row['test']}\ncheck({row['entry_point']})"
        ).passed
    ]
    assert failed == []
    rows = read_jsonl(bench / "mbpp" / "test_11-510.jsonl")
    passed = sum(run_program("\n".join([row["code"], *row["test_list"]])).passed for row in rows)
    assert passed >= 499
