"""`sparsing train`: the run folder, the table, and errors that appear before any training."""

from __future__ import annotations

import json

import pytest

from sparsing.cli import main

TOML = """
[model]
d_model = 32
n_layers = 1
n_heads = 2
vocab_size = 280
context = 32
dim_model_base = 16

[training]
tokens = 512
batch_tokens = 128

[checkpoints]
at = [256]
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(TOML, encoding="utf-8")
    return str(path)


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


def test_a_run_from_a_file_with_its_own_text(config, text, run, capsys):
    command = ["train", config, "--text", str(text), "--hidden-act", "silu", "-o", str(run), "--quiet"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "checkpoint-2 " in out
    assert "checkpoint-4 " in out
    assert "silu, 32x1" in out
    assert (run / "loss.png").stat().st_size > 5000
    assert json.loads((run / "checkpoint-4" / "config.json").read_text("utf-8"))["hidden_act"] == "silu"
    assert main([*command, "--json"]) == 0
    curve = json.loads(capsys.readouterr().out)
    assert [line["step"] for line in curve] == [2, 4]
    assert curve[-1]["tokens"] == 512


def test_short_options_and_set(config, text, run):
    options = ["--tokens", "256", "--set", "training.seed=7", "model.n_layers=2", "--set", "training.lr=0.02"]
    assert (
        main(["train", config, "--text", str(text), *options, "-o", str(run), "--quiet", "--no-figures"]) == 0
    )
    saved = json.loads((run / "train.json").read_text("utf-8"))
    assert (saved["training"]["tokens"], saved["training"]["seed"], saved["training"]["lr"]) == (256, 7, 0.02)
    assert saved["model"]["n_layers"] == 2
    assert not (run / "loss.png").exists()


def test_the_list_of_presets(capsys):
    assert main(["train", "--list-presets"]) == 0
    out = capsys.readouterr().out
    for word in ("0.1B-1792x3", "2304x40", "nano-0.3M", "2,441.87M"):
        assert word in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no configuration to train; give a CONFIG.toml or --preset NAME"),
        (["--preset", "nano-0.3"], "Did you mean: nano-0.3M?"),
        (["CONFIG", "--set", "training.rl=1"], "Unknown key of [training] 'rl'"),
        (["CONFIG", "--tokens", "many"], "training.tokens must be a whole number, got 'many'"),
        (["CONFIG", "--hidden-act", "rleu"], "got 'rleu'"),
        (["CONFIG", "--text", "nowhere.txt"], "nowhere.txt' is no file or folder here"),
    ],
)
def test_refusals_leave_no_checkpoint(config, run, capsys, arguments, message):
    arguments = [config if argument == "CONFIG" else argument for argument in arguments]
    assert main(["train", *arguments, "-o", str(run), "--quiet"]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert not list(run.glob("checkpoint-*"))


def test_a_run_needs_a_folder(config, capsys):
    assert main(["train", config]) == 2
    assert "no folder for the run; give one with -o" in capsys.readouterr().err
