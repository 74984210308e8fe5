"""`sparsing evaluate` from its arguments to its files. Bad arguments are refused before a model is loaded."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from sparsing.cli import main
from sparsing.evaluation.outcome import Evaluation
from sparsing.rules.thresholds import Thresholds

pytestmark = pytest.mark.usefixtures("lm_eval")


@pytest.fixture
def command(stories_folder, bench, tmp_path):
    """Arguments of a small run with two levels beside dense."""
    for name, value in (("light", 0.05), ("heavy", 0.3)):
        thresholds = Thresholds(rule="cett", level=value, on="neuron_norm", values=(value,) * 5)
        thresholds.save(tmp_path / f"{name}.json")
    files = [str(tmp_path / "light.json"), str(tmp_path / "heavy.json")]
    common = ["--task-data", str(bench), "--device", "cpu", "-o", str(tmp_path / "out"), "--quiet"]
    return ["evaluate", str(stories_folder), "--thresholds", *files, *common]


def test_a_table_of_tasks_and_levels(command, tmp_path, capsys):
    tasks = ["--tasks", "copa,lambada", "gsm8k", "--limit", "4", "--max-gen-toks", "8"]
    assert main([*command, *tasks, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    saved = Evaluation.load(tmp_path / "out" / "evaluation.json")
    assert printed == saved.to_dict()
    assert saved.levels == ["dense", "cett 0.05", "cett 0.3"]
    assert [row.task for row in saved.rows[::3]] == ["copa", "lambada", "gsm8k"]
    light, heavy = saved.rows[7:]
    assert 1 > light.decode_activation_ratio > heavy.decode_activation_ratio > 0
    assert light.prefill_activation_ratio > heavy.prefill_activation_ratio
    lines = list(csv.DictReader(io.StringIO((tmp_path / "out" / "evaluation.csv").read_text())))
    assert [float(line["score"]) for line in lines] == [row.score for row in saved.rows]
    text = (tmp_path / "out" / "evaluation.md").read_text()
    assert "## Table 4: Commonsense (1 of 5 columns)" in text
    assert "| COPA | cett 0.3 |" in text


@pytest.mark.filterwarnings("ignore:.*too few to distinguish levels:UserWarning")
def test_levels_by_perplexity_are_measured_once(stories_folder, bench, shared, tmp_path, capsys, monkeypatch):
    text = str(shared / "text" / "tinystories_maxme1.txt")
    args = ["evaluate", str(stories_folder), "--ppl", "5", "10", "--text", text, "--max-tokens", "3000"]
    args += ["--task-data", str(bench), "--device", "cpu", "--limit", "2", "--quiet", "-o", str(tmp_path)]
    assert main([*args, "--tasks", "copa"]) == 0
    assert "PPL-5%" in capsys.readouterr().out
    monkeypatch.setattr("sparsing.measuring._measure.measure", lambda *_, **__: pytest.fail("measured again"))
    assert main([*args, "--tasks", "copa", "piqa"]) == 0
    saved = Evaluation.load(tmp_path / "evaluation.json")
    assert saved.levels == ["dense", "PPL-5%", "PPL-10%"]
    assert saved.rows[1].prefill_activation_ratio > saved.rows[2].prefill_activation_ratio


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no tasks"),
        (["--tasks", "copa", "copa"], "given twice"),
        (["--suite", "paper"], "humaneval runs programs that the model writes"),
        (["--tasks", "copa", "--ppl", "1"], "--text"),
        (["--tasks", "copa", "--ppl", "0", "--text", "x"], "above 0"),
        (["--tasks", "copa", "--thresholds", "none.json"], "none.json"),
        (["--tasks", "copa", "--task-data", "nowhere"], "no folder 'nowhere'"),
    ],
)
def test_refused_before_the_model_is_loaded(arguments, message, bench, tmp_path, capsys):
    command = ["evaluate", str(tmp_path / "no-model"), "-o", str(tmp_path / "out"), "--quiet"]
    if "--task-data" not in arguments:
        command += ["--task-data", str(bench)]
    assert main([*command, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_without_lm_eval(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["evaluate", "m", "--tasks", "copa", "-o", str(tmp_path)]) == 2
    assert "[eval]'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_users_own_definition(command, bench, tmp_path):
    """A user's definition of a task on the same items has the scores of lm-eval's task."""
    from pathlib import Path

    from lm_eval import tasks

    definition = {
        "include": str(Path(tasks.__file__).parent / "piqa" / "piqa.yaml"),
        "task": "own_piqa",
        "dataset_path": "json",
        "dataset_name": None,
        "training_split": None,
        "dataset_kwargs": {"data_files": {"validation": str(bench / "piqa" / "validation.jsonl")}},
    }
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "own.yaml").write_text(json.dumps(definition))
    assert main([*command, "--tasks", "piqa", "--limit", "8"]) == 0
    wanted = Evaluation.load(tmp_path / "out" / "evaluation.json").rows
    own = [one for i, one in enumerate(command) if "--task-data" not in command[max(0, i - 1) : i + 1]]
    assert main([*own, "--tasks", "own_piqa", "--include-path", str(tmp_path / "tasks"), "--limit", "8"]) == 0
    rows = Evaluation.load(tmp_path / "out" / "evaluation.json").rows
    assert [(row.title, row.score) for row in rows] == [("own_piqa", row.score) for row in wanted]
    assert [row.prefill_activation_ratio for row in rows] == [row.prefill_activation_ratio for row in wanted]


@pytest.mark.slow
def test_killed_in_the_third_task_of_six(command, tmp_path):
    """SIGKILL once the third task has begun: the same command ends with the table of an unbroken run."""
    tasks = ["--tasks", "piqa,copa,boolq,lambada,gsm8k,tydiqa", "--limit", "20", "--max-gen-toks", "8"]
    whole = [*command, *tasks]
    whole[whole.index("-o") + 1] = str(tmp_path / "whole")
    assert main(whole) == 0
    run = [sys.executable, "-m", "sparsing", *command, *tasks]
    process = subprocess.Popen(run, env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True)
    while not (tmp_path / "out" / "dense" / "boolq.json").exists():
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = len(list((tmp_path / "out").glob("*/*.json")))
    assert done < 18
    assert main([*command, *tasks]) == 0
    tables = [Evaluation.load(tmp_path / name / "evaluation.json") for name in ("whole", "out")]
    plain = [[{**row.to_dict(), "wall_sec": 0} for row in table.rows] for table in tables]
    assert plain[0] == plain[1]


@pytest.mark.slow
def test_two_processes_give_the_table_of_one(command, shared, tmp_path):
    """Two processes share the items; scores, counts and activation ratios are those of one process."""
    tasks = ["--tasks", "copa,lambada,gsm8k", "--limit", "7", "--max-gen-toks", "8", "--batch-size", "4"]
    tasks += ["--ppl", "5", "--text", str(shared / "text" / "tinystories_maxme1.txt"), "--max-tokens", "1500"]
    alone = [*command, *tasks]
    alone[alone.index("-o") + 1] = str(tmp_path / "alone")
    assert main(alone) == 0
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        "29671",
    ]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*launch, "-m", "sparsing", *command, *tasks], check=True, env=env)
    one, two = (Evaluation.load(tmp_path / name / "evaluation.json") for name in ("alone", "out"))
    for row, other in zip(one.rows, two.rows, strict=True):
        assert (row.score, row.difference, row.num_items) == (other.score, other.difference, other.num_items)
        assert (row.prefill_activation_ratio, row.decode_activation_ratio) == (
            other.prefill_activation_ratio,
            other.decode_activation_ratio,
        )
