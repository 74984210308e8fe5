"""The drop-in for the reference's evaluation: arguments, environment, layout, and the scores of `evaluate`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sparsing.cli import main as sparsing
from sparsing.evaluation.outcome import Evaluation
from sparsing.reference.eval_entrance import main

pytestmark = pytest.mark.usefixtures("lm_eval")

LINE = "1.2000e-01,1.2000e-01,1.5000e-01,2.0000e-01,2.5000e-01"


@pytest.fixture
def model(stories_folder, tmp_path, monkeypatch, bench) -> Path:
    """A copy of the model: results are written into its folder."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in stories_folder.iterdir():
        shutil.copyfile(file, folder / file.name)
    for name, value in {
        "task_data": str(bench),
        "limit": "5",
        "max_gen_toks": "8",
        "batch_size": "4",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    return folder


def results(model: Path) -> Path:
    (folder,) = (model / "eval_results").iterdir()
    return folder


def test_layout_of_the_reference(model, monkeypatch, capsys, read_jsonl):
    monkeypatch.setenv("mode", "sparse")
    monkeypatch.setenv("thresholds", LINE)
    assert main([str(model), "8", "tydiqa,gsm8k", "gen"]) == 0
    folder = results(model)
    assert len(folder.name) == len("2026-01-01_00-00-00")
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "_all_results.json",
        "gsm8k_gsm8k_gen",
        *(f"tydiqa_{language}_gen" for language in ("ar", "fi", "id", "te")),
    }
    everything = json.loads((folder / "_all_results.json").read_text())
    assert set(everything["tydiqa"]) == {"ar", "fi", "id", "te", "mean_result"}
    assert set(everything["gsm8k"]["mean_result"]) == {
        "exact_match,strict-match",
        "exact_match,flexible-extract",
    }
    part = folder / "gsm8k_gsm8k_gen"
    final = json.loads((part / "final_metrics.json").read_text())
    assert final["task_name"] == "gsm8k"
    assert final["overall_result"] == everything["gsm8k"]["gsm8k"]
    assert len(final["instance_result"]["exact_match,strict-match"]) == 5
    instance = read_jsonl(part / "instance.jsonl")[0]
    assert set(instance) == {
        *("data", "ground_truth", "prompt_inputs", "raw_outputs"),
        *("processed_outputs", "eval_results", "metrics"),
    }
    config = json.loads((part / "config.json").read_text())
    assert config["thresholds"] == LINE
    assert config["fewshot"] == 8
    assert 0 < config["decode_activation_ratio"] < 1
    printed = capsys.readouterr().out
    assert "| Task | Metric | Value |" in printed
    assert "| Dataset | Metric | Value |" in printed


def test_the_script_gives_the_scores_of_the_command(model, monkeypatch, tmp_path, bench):
    monkeypatch.setenv("mode", "sparse")
    monkeypatch.setenv("thresholds", LINE)
    assert main([str(model), "1", "piqa,boolq", "ppl"]) == 0
    everything = json.loads((results(model) / "_all_results.json").read_text())
    (tmp_path / "t.txt").write_text(f"thresholds={LINE}\n")
    out = tmp_path / "out"
    args = ["--task-data", str(bench), "--device", "cpu", "--limit", "5", "--batch-size", "4", "-o", str(out)]
    assert (
        sparsing(
            ["evaluate", str(model), "--thresholds", str(tmp_path / "t.txt"), "--tasks", "piqa,boolq", *args]
        )
        == 0
    )
    rows = [row for row in Evaluation.load(out / "evaluation.json").rows if row.level == "t"]
    assert [row.score for row in rows] == [everything[name][name]["acc"] for name in ("piqa", "boolq")]
    config = json.loads((results(model) / "piqa_piqa_ppl" / "config.json").read_text())
    assert config["prefill_activation_ratio"] == rows[0].prefill_activation_ratio


def test_dense_without_mode(model, monkeypatch):
    monkeypatch.setenv("thresholds", LINE)
    monkeypatch.delenv("mode", raising=False)
    assert main([str(model), "8", "copa", "ppl"]) == 0
    config = json.loads((results(model) / "copa_copa_ppl" / "config.json").read_text())
    assert (config["mode"], config["thresholds"], config["prefill_activation_ratio"]) == ("dense", None, None)


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["8", "gsm8k", "ppl"], {}, "gsm8k is no ppl task"),
        (["8", "humaneval", "gen"], {}, "--allow-code-execution"),
        (["8", "copa", "ppl"], {"mode": "sparse", "thresholds": ""}, "no thresholds in the environment"),
        (["8", "copa", "ppl"], {"limit": "few"}, "no whole number"),
        (["8", "copa", "ppl"], {"mode": "sparse", "thresholds": "1,2"}, "2 thresholds for a model of 5"),
    ],
)
def test_arguments_that_are_refused(model, monkeypatch, capsys, arguments, environment, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main([str(model), *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_script_itself(model):
    script = Path(__file__).resolve().parents[2] / "scripts" / "eval_entrance.sh"
    env = os.environ | {
        "PYTHON": sys.executable,
        "mode": "sparse",
        "thresholds": LINE,
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        ["bash", str(script), str(model), "8", "copa", "ppl"],
        env=env,
        check=True,
        capture_output=True,
        text=True,
    )
    assert "| copa | acc |" in done.stdout
