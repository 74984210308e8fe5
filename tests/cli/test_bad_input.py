"""Bad input to `sparsing measure`: one clear line, status 2, before any long work."""

from __future__ import annotations

import json
import pickle
import shutil

import pytest
from safetensors.torch import load_file, save_file

from sparsing.cli import main


def run(capsys, *command: str) -> str:
    """The error line of a command that must fail."""
    assert main(["measure", *command, "--quiet", "--no-figures"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    return captured.err


@pytest.fixture
def where(tmp_path):
    return ["-o", str(tmp_path / "out"), "--window", "48"]


@pytest.fixture
def copy(checkpoint, tmp_path):
    return shutil.copytree(checkpoint, tmp_path / "copy")


def test_empty_file(checkpoint, tmp_path, where, capsys):
    (tmp_path / "empty.txt").touch()
    error = run(capsys, str(checkpoint), "--text", str(tmp_path / "empty.txt"), *where)
    assert "is empty; give a file with text" in error


def test_one_token_file(checkpoint, tmp_path, where, capsys):
    (tmp_path / "one.txt").write_text("a", encoding="utf-8")
    error = run(capsys, str(checkpoint), "--text", str(tmp_path / "one.txt"), *where)
    assert "tokens" in error
    assert "longer text" in error


def test_missing_model(text, tmp_path, where, capsys):
    error = run(capsys, str(tmp_path / "nowhere"), "--text", str(text), *where)
    assert "no folder" in error
    assert "hub name" in error


def test_not_a_causal_lm(copy, text, where, capsys):
    config = {"model_type": "bert", "architectures": ["BertForMaskedLM"]}
    (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
    error = run(capsys, str(copy), "--text", str(text), *where)
    assert "is not a causal language model" in error


def test_free_pickle(copy, text, where, capsys):
    (copy / "model.safetensors").unlink()
    (copy / "weights.pkl").write_bytes(pickle.dumps({"a": 1}))
    error = run(capsys, str(copy), "--text", str(text), *where)
    assert "only a free pickle" in error
    assert "save_pretrained" in error


def test_wrong_number_of_thresholds(checkpoint, text, tmp_path, where, capsys):
    (tmp_path / "t.txt").write_text("thresholds=0.1,0.2,0.3\n", encoding="utf-8")
    error = run(capsys, str(checkpoint), "--text", str(text), "--thresholds", str(tmp_path / "t.txt"), *where)
    assert "3 thresholds for a model of 2 sites" in error


def test_nan_weights(copy, text, where, capsys):
    weights = load_file(copy / "model.safetensors")
    name = next(iter(weights))
    weights[name].view(-1)[0] = float("nan")
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    error = run(capsys, str(copy), "--text", str(text), *where)
    assert "NaN or infinite" in error


def test_window_longer_than_the_model(checkpoint, text, tmp_path, capsys):
    error = run(capsys, str(checkpoint), "--text", str(text), "--window", "100000", "-o", str(tmp_path))
    assert "positions; use --window" in error


@pytest.mark.parametrize("ppl", ["0", "-1"])
def test_target_ratio_not_above_one(checkpoint, text, where, capsys, ppl):
    error = run(capsys, str(checkpoint), "--text", str(text), "--ppl", ppl, *where)
    assert "--ppl 1 means ppl_ratio 1.01" in error


def test_target_that_no_level_reaches(checkpoint, text, where, capsys):
    error = run(capsys, str(checkpoint), "--text", str(text), "--rule", "cett", "--ppl", "900000", *where)
    assert "no level of cett reaches" in error


def test_unknown_rule_with_a_suggestion(checkpoint, text, where, capsys):
    error = run(capsys, str(checkpoint), "--text", str(text), "--rule", "ctt", *where)
    assert "Unknown rule 'ctt'. Did you mean: cett? Available: " in error


def test_unwritable_output(checkpoint, text, tmp_path, capsys):
    (tmp_path / "file").touch()  # a file where the folder should be: unwritable for root as well
    error = run(capsys, str(checkpoint), "--text", str(text), "-o", str(tmp_path / "file" / "out"))
    assert "cannot write" in error
    assert "-o/--output" in error


def test_exclusive_options(checkpoint, text, where, capsys):
    error = run(capsys, str(checkpoint), "--text", str(text), "--ppl", "1", "--level", "0.1", *where)
    assert "exclude each other" in error


def test_level_out_of_bounds(checkpoint, text, where, capsys):
    error = run(capsys, str(checkpoint), "--text", str(text), "--rule", "top_k", "--level", "1.5", *where)
    assert "must be in (0, 1], got 1.5" in error
