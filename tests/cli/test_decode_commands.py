"""`generate` and `advise` from the command line."""

from __future__ import annotations

import json

import pytest

from sparsing.cli import main
from sparsing.decode.advice.result import Advice
from sparsing.rules.thresholds import Thresholds

pytest.importorskip("numba", reason="the CPU kernels need numba: pip install 'sparsing[cpu]'")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def thresholds(tmp_path):
    made = Thresholds(rule="cett", level=0.3, on="neuron_norm", values=(0.3, 0.3))
    return str(made.save(tmp_path / "thresholds.json"))


def test_generate_prints_text_and_statistics(checkpoint, text, thresholds, tmp_path, capsys):
    command = ["generate", str(checkpoint), "--thresholds", thresholds, "--prompt", "import re", "--quiet"]
    command += ["--max-new-tokens", "12", "--no-measure"]
    assert main([*command, "--stats"]) == 0
    exact = capsys.readouterr().out
    assert exact.startswith("import re")
    for word in ("tokens/s", "active share", "MB read per token", "exact in 2 layers"):
        assert word in exact
    predict = [
        "--predict",
        "4",
        "--text",
        str(text),
        "--window",
        "48",
        "--save-predictor",
        str(tmp_path / "p.json"),
    ]
    assert main([*command, "--json", *predict]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["num_new_tokens"] <= 12
    assert abs(made["predictor_ppl_change"]) < 0.05
    assert made["stats"]["bytes_per_step"] < made["stats"]["dense_bytes_per_step"]
    assert main([*command, "--stats", "--predictor", str(tmp_path / "p.json")]) == 0
    again = capsys.readouterr().out
    assert again.startswith(made["text"])
    assert "predictor, perplexity" in again


def test_generate_dense_is_the_baseline(checkpoint, capsys):
    command = [
        "generate",
        str(checkpoint),
        "--dense",
        "--prompt",
        "import re",
        "--max-new-tokens",
        "8",
        "--json",
    ]
    assert main([*command, "--no-measure"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["stats"]["mode"] == "dense"
    assert made["stats"]["bytes_per_step"] == pytest.approx(made["stats"]["dense_bytes_per_step"])


def test_generate_rejects_contradictory_options(checkpoint, thresholds, capsys):
    command = ["generate", str(checkpoint), "--prompt", "a"]
    for more, message in [
        ([], "give --thresholds FILE"),
        (["--thresholds", thresholds, "--predict", "4"], "give a text with --text"),
        (
            ["--thresholds", thresholds, "--predictor", "p", "--predict", "4", "--text", "t"],
            "exclude each other",
        ),
    ]:
        assert main([*command, *more]) == 2
        assert message in capsys.readouterr().err


def test_advise_ends_with_a_table_and_a_picture(checkpoint, text, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sparsing.decode.advice._advise.TIMING_SEC", 0.0)
    command = [
        "advise",
        str(checkpoint),
        "--text",
        str(text),
        "--window",
        "48",
        "--quiet",
        "-o",
        str(tmp_path),
    ]
    assert main([*command, "--rule", "cett", "--ppl", "5", "--new-tokens", "8"]) == 0
    out = capsys.readouterr().out
    assert "speed-up" in out
    assert "cett PPL-5%, 4-bit:" in out
    assert len(Advice.load(tmp_path / "advice.json").rows) == 2
    assert (tmp_path / "advice.png").stat().st_size > 1000
