"""`compare`, `thresholds`, `demo`, the parser itself, and that `--help` needs no torch."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings

import pytest

import sparsing.demo.run
from sparsing.cli import build_parser, main
from sparsing.measuring.frontier import RuleComparison
from sparsing.rules.thresholds import Thresholds


def test_compare(checkpoint, text, tmp_path, capsys):
    command = ["compare", str(checkpoint), "--text", str(text), "--window", "48", "--quiet", "--steps", "3"]
    assert main([*command, "-o", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "PPL-10%" in printed
    comparison = RuleComparison.load(tmp_path / "comparison.json")
    assert f", {comparison.num_tokens:,} tokens: activation ratio" in " ".join(printed.split())
    assert main(["report", str(tmp_path), "-o", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"Activation ratio at a cost in perplexity on {comparison.num_tokens:,} tokens" in page
    assert comparison.rules() == ["cett", "fat", "top_k"]
    for rule in comparison.rules():
        points = comparison.of(rule)
        assert len(points) == 3
        assert points[0].activation_ratio >= points[-1].activation_ratio
        assert points[-1].ppl_ratio == pytest.approx(1.1, abs=0.01)
    assert (tmp_path / "ppl_against_ratio.png").stat().st_size > 1000


def test_thresholds_shown_and_converted(tmp_path, capsys):
    made = Thresholds(rule="cett", level=0.2, on="neuron_norm", values=(0.125, 0.25))
    path = made.save(tmp_path / "t.json")
    assert main(["thresholds", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "1.250000e-01" in printed
    assert "a neuron is active where h.abs() > cut" in printed
    assert f"read_thresholds({str(path)!r}).cuts(model)" in printed
    assert main(["thresholds", str(path), "--to", "line"]) == 0
    assert capsys.readouterr().out == "thresholds=1.2500e-01,2.5000e-01\n"
    assert main(["thresholds", str(path), "--to", "json", "-o", str(tmp_path / "copy.json")]) == 0
    assert json.loads(capsys.readouterr().out)["values"] == {"#0": 0.125, "#1": 0.25}
    assert Thresholds.load(tmp_path / "copy.json").values == made.values


def test_thresholds_of_another_score_have_no_line(tmp_path, capsys):
    path = Thresholds(rule="fat", level=0.1, on="gate", values=(0.1,)).save(tmp_path / "t.json")
    assert main(["thresholds", str(path), "--to", "line"]) == 2
    assert "keep the JSON file" in capsys.readouterr().err


def test_demo_on_its_last_checkpoints(tmp_path, capsys, monkeypatch):
    """The whole way of the demo, on less: two checkpoints per model and a short text."""
    every = sparsing.demo.run.checkpoints
    monkeypatch.setattr(sparsing.demo.run, "checkpoints", lambda activation: every(activation)[-2:])
    monkeypatch.setattr(sparsing.demo.run, "COMPARED_RULES", ("cett",))
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["demo", "-o", str(tmp_path), "--max-tokens", "1500", "--quiet"]) == 0
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    for word in (
        "relu/tokens-",
        "silu/tokens-",
        "Rules compared",
        "All measurements",
        "Neurons by corpus",
        "Plotly",
    ):
        assert word in page
    for picture in ("along_training.png", "relu/ppl_against_ratio.png", "silu/last/layer_ratios.png"):
        assert (tmp_path / picture).stat().st_size > 1000
    assert "open" in capsys.readouterr().out


def test_every_command_has_examples_and_defaults():
    actions = build_parser()._subparsers._group_actions[0].choices
    assert {"measure", "compare", "thresholds", "models", "demo", "fit", "forecast"} <= set(actions)
    for name, parser in actions.items():
        assert parser.epilog, f"{name} ends without examples"
        assert parser.epilog.count(f"sparsing {name}") >= 2, f"{name} needs two examples"


def test_help_loads_neither_torch_nor_transformers():
    code = (
        "import sys\nfrom sparsing.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'matplotlib', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
