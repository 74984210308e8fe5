"""`sparsing neuron`: a neuron on the terminal and as JSON."""

from __future__ import annotations

import json

import pytest

from sparsing.cli import main


@pytest.fixture(scope="module")
def run_folder(checkpoint, text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("outputs")
    command = ["neurons", str(checkpoint), "--text", f"prose={text}", "--max-tokens", "300", "--window", "48"]
    assert main([*command, "--no-figures", "--quiet", "-o", str(folder / "neurons")]) == 0
    return folder


def test_a_neuron_is_printed(run_folder, capsys):
    capsys.readouterr()
    assert main(["neuron", str(run_folder), "1.12"]) == 0
    printed = capsys.readouterr().out
    for word in ("neuron 1.12", "active on prose", "promotes", "demotes", "fires together with", "[["):
        assert word in printed
    assert main(["neuron", str(run_folder), "1.12", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["name"] == "1.12"
    assert f"{found['frequency']['prose']:.2%} of the tokens" in printed
    assert found["contexts"][0]["token"].replace("\n", "\\n") in printed


def test_a_neuron_that_is_not_there(run_folder, capsys):
    assert main(["neuron", str(run_folder), "9.0"]) == 2
    assert "there is no neuron '9.0'" in capsys.readouterr().err
