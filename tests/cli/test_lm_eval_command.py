"""`sparsing lm-eval` hands its arguments to lm-eval's own command line, which then knows `--model sparsing`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sparsing.cli import main

SPARSING = [sys.executable, "-m", "sparsing", "lm-eval"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def test_help_comes_from_both(capsys, lm_eval, monkeypatch):
    assert main(["lm-eval", "--help"]) == 0
    assert "sparsing lm-eval run --model sparsing" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["sparsing"])
    with pytest.raises(SystemExit, match="0"):
        main(["lm-eval", "run", "--help"])
    assert "--num_fewshot" in capsys.readouterr().out


def test_arguments_are_passed_as_they_are(lm_eval, monkeypatch):
    seen = []
    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", lambda: seen.append(sys.argv))
    monkeypatch.setattr("sys.argv", ["sparsing"])
    assert main(["lm-eval", "--model", "sparsing", "-v", "--tasks", "piqa,copa", "--version"]) == 0
    assert seen == [["lm-eval", "--model", "sparsing", "-v", "--tasks", "piqa,copa", "--version"]]


def test_without_lm_eval(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["lm-eval", "ls", "tasks"]) == 2
    assert "[eval]'" in capsys.readouterr().err


@pytest.fixture
def evaluate(lm_eval, stories_folder, bench, tmp_path):
    """`evaluate(name, model, extra)`: results of lm-eval's command on 20 items of PIQA; no `--device`, no GPU."""
    from lm_eval import tasks

    definition = {
        "include": str(Path(tasks.__file__).parent / "piqa" / "piqa.yaml"),
        "task": "local_piqa",
        "dataset_path": "json",
        "dataset_name": None,
        "training_split": None,
        "dataset_kwargs": {"data_files": {"validation": str(bench / "piqa" / "validation.jsonl")}},
    }
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "local_piqa.yaml").write_text(json.dumps(definition))

    def run(name, model, extra=""):
        args = [
            "run",
            "--model",
            model,
            "--model_args",
            f"pretrained={stories_folder}{extra}",
            "--limit",
            "20",
        ]
        args += ["--tasks", "local_piqa", "--include_path", str(tmp_path / "tasks")]
        subprocess.run([*SPARSING, *args, "--output_path", str(tmp_path / name)], check=True, env=ENVIRONMENT)
        (path,) = (tmp_path / name).rglob("results_*.json")
        return json.loads(path.read_text())

    return run


@pytest.mark.slow
def test_scores_and_ratios(evaluate, tmp_path):
    """Dense it gives the scores of `--model hf`; with thresholds it adds the activation ratios."""
    (tmp_path / "t.txt").write_text("thresholds=0.12,0.12,0.15,0.2,0.25\n")
    own, dense = evaluate("hf", "hf"), evaluate("dense", "sparsing")
    assert own["results"]["local_piqa"] == dense["results"]["local_piqa"]
    from_file = evaluate("file", "sparsing", f",thresholds={tmp_path / 't.txt'}")
    listed = evaluate("list", "sparsing", ",thresholds=[0.12,0.12,0.15,0.2,0.25]")
    assert from_file["results"]["local_piqa"] == listed["results"]["local_piqa"]
    assert 0.2 < from_file["config"]["prefill_activation_ratio"] < 0.7
