"""`sparsing bench` from the command line, on the smallest shape and on a trained tiny checkpoint."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from sparsing.bench.block_result import BlockBenchmark
from sparsing.bench.model_result import ModelBenchmark
from sparsing.cli import main
from sparsing.rules.thresholds import Thresholds

from ..helpers.measuring import trained
from ..helpers.tiny import save_checkpoint

pytest.importorskip("numba", reason="the CPU kernels need numba")
SHAPE = "nano-0.3M"
QUICK = ["--rounds", "1", "--threads", "1", "--quiet", "--bits", "4"]


@pytest.fixture(autouse=True)
def small_cache(monkeypatch):
    """A cache of 64 KiB: few layers outgrow it, and the bandwidth is measured on 1 MiB."""
    monkeypatch.setattr("sparsing.hardware.bandwidth.last_cache_bytes", lambda: 2**16)


def test_a_block(tmp_path, capsys):
    command = ["bench", "--shape", SHAPE, "--ratio", "0.1", "--batch", "1", "2", "--engines", "eager", *QUICK]
    assert main([*command, "-o", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    for word in (
        f"FFN of {SHAPE}, float32, batch 2",
        "torch eager",
        "own dense",
        "4-bit predictor",
        "planted",
    ):
        assert word in shown
    assert {line.batch for line in BlockBenchmark.load(tmp_path / "ffn.json").lines} == {1, 2}
    for batch in (1, 2):
        assert (tmp_path / f"speedup-batch-{batch}.png").stat().st_size > 1000
    assert not (tmp_path / ".journal").exists()


def test_a_whole_model_as_json(tmp_path, capsys):
    command = ["bench", "--shape", SHAPE, "--whole", "--ratio", "0.1", "--engines", "--json", *QUICK]
    sizes = ["--prompt-tokens", "8", "--new-tokens", "4"]
    assert main([*command, *sizes, "-o", str(tmp_path)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [line["name"] for line in shown["lines"]] == [
        "Hugging Face",
        "own dense",
        "sparse, exact",
        "4-bit predictor",
    ]
    assert ModelBenchmark.load(tmp_path / "whole.json").new_tokens == 3


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_checkpoint_with_its_thresholds(dtype, text, tmp_path, capsys):
    """Kernels take no float16, so a checkpoint in float16 is timed in bfloat16."""
    checkpoint = save_checkpoint(tmp_path / dtype, copy.deepcopy(trained().model).to(getattr(torch, dtype)))
    thresholds = Thresholds(rule="cett", level=0.1, on="neuron_norm", values=(0.01, 0.01))
    path = thresholds.save(tmp_path / "thresholds.json")
    command = ["bench", "--model", str(checkpoint), "--thresholds", str(path), "--text", str(text)]
    sizes = ["--prompt-tokens", "12", "--new-tokens", "4", "--engines"]
    assert main([*command, *sizes, *QUICK, "-o", str(tmp_path)]) == 0
    assert "those of the checkpoint; llama.cpp runs random weights" in " ".join(
        capsys.readouterr().out.split()
    )
    bench = ModelBenchmark.load(tmp_path / "whole.json")
    exact = next(line for line in bench.lines if line.name == "sparse, exact")
    assert exact.ratio is None
    assert 0 < exact.active_ratio < 1
    assert bench.provenance.model == str(checkpoint)
    assert bench.provenance.dtype == {"float16": "bfloat16"}.get(dtype, dtype)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "0.8b"], "Did you mean: 0.8B"),
        (["--ratio", "6.5"], "ratios must be in"),
        (["--batch", "16"], "1 to 8"),
        (["--model", "somewhere"], "needs --thresholds"),
        (["--shape", SHAPE, "--whole", "--dtype", "int8"], "float32 and bfloat16"),
    ],
)
def test_bad_arguments(arguments, message, tmp_path, capsys):
    assert main(["bench", *arguments, "-o", str(tmp_path), "--quiet"]) == 2
    assert message in capsys.readouterr().err
