"""`sparsing neurons`, and the report on two studies."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from sparsing.cli import main
from sparsing.neurons.study import NeuronStudy
from sparsing.rules.thresholds import Thresholds


@pytest.fixture
def texts(tmp_path, text):
    whole = text.read_text(encoding="utf-8")
    (tmp_path / "code.py").write_text(whole[:2000], encoding="utf-8")
    (tmp_path / "upper.txt").write_text(whole[:2000].upper(), encoding="utf-8")
    return [f"lower={tmp_path / 'code.py'}", str(tmp_path / "upper.txt")]


def test_a_study_and_its_report(checkpoint, texts, tmp_path, capsys):
    out = tmp_path / "study"
    command = ["neurons", str(checkpoint), "--text", *texts, "--window", "48", "--quiet"]
    assert main([*command, "-o", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "dense passes over the text" in printed
    assert "upper" in printed
    study = NeuronStudy.load(out / "neurons.json")
    assert study.corpora == ("lower", "upper")
    assert np.nanmax(study.specialisation) > 0.05, "some neuron tells the cases apart"
    assert pq.read_table(out / "neurons.parquet").num_rows == study.mean_norm.size
    assert "Single neurons" in (out / "index.html").read_text(encoding="utf-8")
    assert not (out / ".journal").exists()

    thresholds = Thresholds(rule="fat", level=0.05, on="gate", values=(0.05, 0.05))
    saved = thresholds.save(tmp_path / "t.json")
    again = tmp_path / "again"
    assert main([*command, "--thresholds", str(saved), "-o", str(again), "--json", "--no-figures"]) == 0
    assert json.loads(capsys.readouterr().out)["folder"] == str(again)
    assert NeuronStudy.load(again / "neurons.json").thresholds.on == "gate"
    assert main(["report", str(out), str(again), "-o", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Token by token" in page
    assert "Distances between corpora and between models" in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--text", "a.txt", "b/a.txt"], "two texts have the name 'a'; give them names"),
        (["--text", "x=/no/such/file"], "/no/such/file"),
        (["--cett", "-1"], "CETT"),
        (["--contexts", "0"], "at least 1 context"),
    ],
)
def test_refusals(checkpoint, text, tmp_path, capsys, options, message):
    command = ["neurons", str(checkpoint), "--text", str(text), "--window", "48", "--quiet", "--no-figures"]
    assert main([*command, *options, "-o", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("neurons*"))
