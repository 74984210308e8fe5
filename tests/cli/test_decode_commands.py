"""`generate` and `advise` from the command line."""

from __future__ import annotations

import json

import pytest

from sparsing.cli import main
from sparsing.decode.advice.result import Advice
from sparsing.measuring.run_folder import default_folder
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


def test_advise_after_a_measurement_ends_with_a_table_and_a_picture(
    checkpoint, text, tmp_path, capsys, monkeypatch
):
    """Its results are in a folder of their own, since decoding may need another dtype than the measurement."""
    monkeypatch.setattr("sparsing.decode.advice._advise.TIMING_SEC", 0.0)
    monkeypatch.chdir(tmp_path)
    options = [str(checkpoint), "--text", str(text), "--window", "48", "--quiet"]
    measured = ["--dtype", "bf16", "--rule", "fat", "--level", "0.1", "--max-tokens", "300", "--no-figures"]
    assert main(["measure", *options, *measured]) == 0
    capsys.readouterr()
    assert main(["advise", *options, "--rule", "cett", "--ppl", "5", "--new-tokens", "8"]) == 0
    out = capsys.readouterr().out
    assert "speed-up" in out
    assert "cett PPL-5%, 4-bit:" in out
    folder = default_folder(str(checkpoint)) / "advise"
    assert out.endswith(f"results: {folder}\n")
    assert len(Advice.load(folder / "advice.json").rows) == 2
    assert (folder / "advice.png").stat().st_size > 1000
