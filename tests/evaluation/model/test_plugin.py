"""lm-eval knows the model by name without an import, through the package's entry points."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys

import pytest

from sparsing.evaluation.model.plugin import TARGET, register


def entry(group: str):
    found = [one for one in importlib.metadata.entry_points(group=group) if one.value.startswith("sparsing.")]
    if not found:
        pytest.skip("needs the package to be installed with its entry points")
    return found[0]


def test_torch_calls_the_registration():
    assert entry("torch.backends").load() is register


def test_later_versions_find_the_model(lm_eval):
    from lm_eval.api.model import LM

    point = entry("lm_eval.models")
    assert (point.name, point.value) == ("sparsing", TARGET)
    assert issubclass(point.load(), LM)


def test_registered_once_and_only_where_lm_eval_is_loaded(lm_eval, monkeypatch):
    from lm_eval.api.registry import get_model, model_registry

    from sparsing.evaluation.model.harness import sparsing_lm

    register()
    register()
    assert "sparsing" in model_registry
    assert get_model("sparsing") is sparsing_lm()
    monkeypatch.delitem(sys.modules, "lm_eval.api.registry")
    register()


def test_importing_torch_does_not_import_lm_eval():
    program = "import torch, sys; print('lm_eval' in sys.modules, 'sparsing.evaluation.model.harness' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"]


def test_lm_evals_own_models_stay(lm_eval):
    """A registry that is not empty keeps lm-eval from naming its own models."""
    program = """
import lm_eval.api.registry as registry
import torch
from sparsing.evaluation.model.plugin import register
register()
assert "sparsing" in registry.model_registry
registry.get_model("dummy")
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.slow
def test_lm_evals_own_command(lm_eval, stories_folder, bench, tmp_path):
    """`lm_eval --model sparsing`: dense it prints the scores of `--model hf`, sparse it adds the ratios."""
    entry("torch.backends")
    from pathlib import Path

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
    (tmp_path / "t.txt").write_text("thresholds=0.12,0.12,0.15,0.2,0.25\n")
    found = {}
    for name, model, extra in (
        ("hf", "hf", ""),
        ("dense", "sparsing", ""),
        ("file", "sparsing", f",thresholds={tmp_path / 't.txt'}"),
        ("list", "sparsing", ",thresholds=[0.12,0.12,0.15,0.2,0.25]"),
    ):
        args = [
            "run",
            "--model",
            model,
            "--model_args",
            f"pretrained={stories_folder}{extra}",
            "--limit",
            "20",
        ]
        args += ["--tasks", "local_piqa", "--include_path", str(tmp_path / "tasks"), "--device", "cpu"]
        args += ["--output_path", str(tmp_path / name)]
        subprocess.run(
            [sys.executable, "-m", "lm_eval", *args], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        (path,) = (tmp_path / name).rglob("results_*.json")
        found[name] = json.loads(path.read_text())
    scores = {name: one["results"]["local_piqa"] for name, one in found.items()}
    assert scores["hf"] == scores["dense"]
    assert scores["file"] == scores["list"]
    assert 0.2 < found["file"]["config"]["prefill_activation_ratio"] < 0.7
