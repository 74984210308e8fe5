"""`sparsing measure`: what it writes and prints, what can be used again, and that it resumes."""

from __future__ import annotations

import json
import shlex
import warnings

import numpy as np
import pytest

import sparsing.measuring.window_loss
from sparsing import load_model
from sparsing.cli import build_parser, main
from sparsing.measuring.measurement import Measurement
from sparsing.rules.thresholds import Thresholds

COMMON = ["--window", "48", "--quiet"]


@pytest.fixture(autouse=True)
def _warnings_are_lines():
    """The command turns warnings into log lines; as errors they would end it."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield


def measured(folder, name="cett-ppl-1") -> Measurement:
    return Measurement.load(folder / name / "measurement.json")


def same(a: Measurement, b: Measurement) -> bool:
    """Equal in everything that is measured: all but time and command."""
    a_dict, b_dict = a.to_dict(), b.to_dict()
    for document in (a_dict, b_dict):
        document.pop("cost")
        document.pop("provenance")
        document["thresholds"].pop("provenance")
    return a_dict == b_dict


def test_default_run_measures_ppl_1_and_nothing_else(checkpoint, text, tmp_path, capsys):
    out = tmp_path / "run"
    assert (
        main(["measure", str(checkpoint), "--text", str(text), "-o", str(out), "--no-figures", *COMMON]) == 0
    )
    assert "PPL-1%" in capsys.readouterr().out
    assert [path.parent.name for path in out.rglob("measurement.json")] == ["cett-ppl-1"]
    result = measured(out)
    assert 0 < result.activation_ratio < 1
    assert result.ppl_ratio == pytest.approx(1.01, abs=1e-3)
    assert result.provenance.num_tokens == result.num_tokens
    assert result.provenance.command.startswith("pytest") or result.provenance.command
    assert not (out / ".journal").exists(), "a finished run leaves no journal"


def test_levels_of_several_rules(checkpoint, text, tmp_path, capsys):
    out = tmp_path / "run"
    command = ["measure", str(checkpoint), "--text", str(text), "-o", str(out), "--no-figures", *COMMON]
    assert main([*command, "--rule", "cett", "fat", "--level", "0.2"]) == 0
    assert "fat 0.2" in capsys.readouterr().out
    assert measured(out, "cett-0.2").cett_dense_inputs == pytest.approx([0.2, 0.2], rel=0.02)


def test_json_is_one_document_with_the_fields_of_the_result(checkpoint, text, tmp_path, capsys):
    out = tmp_path / "run"
    command = ["measure", str(checkpoint), "--text", str(text), "--rule", "fat", "--level", "0.01", "0.1"]
    assert main([*command, "-o", str(out), "--json", "--no-figures", *COMMON]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [item["level"] for item in document] == [0.01, 0.1]
    assert document[1]["activation_ratio"] == measured(out, "fat-0.1").activation_ratio
    assert document[0]["activation_ratio"] > document[1]["activation_ratio"]


def test_thresholds_of_a_run_can_be_measured_again(checkpoint, text, tmp_path, capsys):
    out, again, line = tmp_path / "a", tmp_path / "b", tmp_path / "thresholds.txt"
    command = ["measure", str(checkpoint), "--text", str(text), "--no-figures", *COMMON]
    assert main([*command, "--rule", "cett", "-o", str(out)]) == 0
    saved = out / "cett-ppl-1" / "thresholds.json"
    assert main([*command, "--thresholds", str(saved), "-o", str(again)]) == 0
    first, second = measured(out), measured(again)
    assert second.ppl_ratio == first.ppl_ratio
    assert second.layer_activation_ratio == first.layer_activation_ratio
    capsys.readouterr()
    assert main(["thresholds", str(saved), "--to", "line"]) == 0
    line.write_text(capsys.readouterr().out, encoding="utf-8")
    assert main([*command, "--thresholds", str(line), "-o", str(tmp_path / "c")]) == 0
    read_back = Thresholds.from_line(line.read_text(encoding="utf-8"))
    assert read_back.numbers == pytest.approx(first.thresholds.numbers, rel=1e-4)


def test_pictures_and_page(checkpoint, text, tmp_path):
    out = tmp_path / "run"
    command = ["measure", str(checkpoint), "--text", str(text), "--rule", "cett", "-o", str(out), *COMMON]
    assert main([*command, "--max-tokens", "900"]) == 0
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "PPL-1%" in page
    for name in ("token_layer_heatmap", "layer_ratios", "layer_thresholds", "neuron_frequency"):
        assert (out / "cett-ppl-1" / f"{name}.png").stat().st_size > 1000
        assert (out / "cett-ppl-1" / f"{name}.svg").exists()


def test_one_cett_for_several_checkpoints(checkpoint, text, tmp_path):
    """With the same checkpoint twice, the joint level is its own."""
    alone, joint = tmp_path / "alone", tmp_path / "joint"
    command = ["measure", str(checkpoint), "--text", str(text), "--no-figures", "--ppl", "5", *COMMON]
    assert main([*command, "--rule", "cett", "-o", str(alone)]) == 0
    assert main([*command, "--cett-from", str(checkpoint), str(checkpoint), "-o", str(joint)]) == 0
    level = measured(alone, "cett-ppl-5").level
    assert measured(joint, f"cett-{level:.4g}").level == pytest.approx(level, rel=1e-9)


def test_cut_off_in_the_search_it_resumes_to_the_same_result(checkpoint, text, tmp_path, monkeypatch):
    """Stopped in the middle of a pass, the same command ends with the figures of an undisturbed run."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    command = ["measure", str(checkpoint), "--text", str(text), "--rule", "cett", "--no-figures", *COMMON]
    command += ["--batch-size", "4"]
    assert main([*command, "-o", str(whole)]) == 0
    monkeypatch.setattr("sparsing.measuring.journal.SAVE_EVERY_SEC", 0.0)
    calls = {"left": 60}
    window_nll = sparsing.measuring.window_loss.window_nll

    def stops(logits, batch):
        calls["left"] -= 1
        if calls["left"] == 0:
            raise KeyboardInterrupt
        return window_nll(logits, batch)

    monkeypatch.setattr(sparsing.measuring.window_loss, "window_nll", stops)
    assert main([*command, "-o", str(cut)]) == 130
    assert list((cut / ".journal").glob("*/*.safetensors")), "nothing was kept"
    used = calls["left"]
    assert main([*command, "-o", str(cut)]) == 0
    undisturbed, resumed = measured(whole), measured(cut)
    assert same(undisturbed, resumed)
    assert np.array_equal(undisturbed.neuron_frequency, resumed.neuron_frequency)
    assert used == 0


def test_what_to_do_next_can_be_typed_as_it_is_printed(checkpoint, text, tmp_path, capsys, monkeypatch):
    """The output ends with the answer and what to do next; this test runs the Python lines and parses the command."""
    monkeypatch.chdir(tmp_path)
    assert (
        main(["measure", str(checkpoint), "--text", str(text), "-o", "my run", "--no-figures", *COMMON]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    (answer,) = [line for line in lines if "must stay active if perplexity may rise by 1%" in line]
    assert f"{100 * measured(tmp_path / 'my run').activation_ratio:.1f}%" in answer
    assert "results: my run; report: sparsing report 'my run'" in lines
    begin = lines.index("next:") + 1
    *python, command = (line.strip() for line in lines[begin:])
    names = {"model": load_model(str(checkpoint)).model}
    exec("\n".join(python[:1]), names)
    frame, cuts = (eval(line, names) for line in python[1:])
    assert len(frame) == len(cuts) == 2
    assert next(iter(cuts.values())).shape == (names["model"].config.intermediate_size,)
    assert build_parser().parse_args(shlex.split(command, comments=True)[1:]).text == str(text)


def test_each_caution_is_printed_once(checkpoint, text, tmp_path, capsys, caplog):
    command = ["measure", str(checkpoint), "--text", str(text), "-o", str(tmp_path), "--no-figures", *COMMON]
    assert main([*command, "--max-tokens", "300", "--ppl", "5"]) == 0
    printed = capsys.readouterr()
    cautions = [line for line in printed.out.splitlines() if line.startswith("caution, PPL-5%: ")]
    assert any("Only 270 tokens were measured" in line for line in cautions)
    assert any("too short to distinguish levels" in line for line in cautions)
    assert "distinguish levels" not in printed.err + caplog.text


def test_a_ranking_promises_no_cuts(checkpoint, text, tmp_path, capsys):
    command = ["measure", str(checkpoint), "--text", str(text), "-o", str(tmp_path), "--no-figures", *COMMON]
    assert main([*command, "--rule", "top_k", "--level", "0.5"]) == 0
    assert "cuts(model)" not in capsys.readouterr().out
