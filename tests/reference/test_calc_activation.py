"""The drop-in for the reference's script, compared with the reference's output (`../shared/parity/golden.json`)."""

from __future__ import annotations

import json
import warnings

import pytest

from sparsing.measuring.measurement import Measurement
from sparsing.reference.calc_activation import main

STRATEGIES = [
    (s, a) for s, args in {"fat": (0.05, 0.0), "topk": (0.3, 0.05), "cett": (0.1, 0.2)}.items() for a in args
]


def run(*command: str) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # one window, a SiLU model that stays dense at eps 0
        return main(command)


@pytest.mark.parametrize("checkpoint", ["minicpm-tiny-relu-0", "minicpm-tiny-silu-1"])
@pytest.mark.parametrize(("strategy", "arg"), STRATEGIES)
def test_equals_the_reference(shared, tmp_path, capsys, checkpoint, strategy, arg):
    golden = json.loads((shared / "parity" / "golden.json").read_text(encoding="utf-8"))
    [expected] = [
        r for r in golden["runs"] if (r["ckpt"], r["strategy"], r["arg"]) == (checkpoint, strategy, arg)
    ]
    text, full = tmp_path / "input.txt", tmp_path / "full.json"
    text.write_text(golden["text"], encoding="utf-8")
    model = str(shared / "parity" / checkpoint)
    command = ["--from-pretrained", model, "--input-file", str(text), "--prune-strategy", strategy]
    assert run(*command, "--prune-arg", str(arg), "--output-json", str(full)) == 0
    result = Measurement.load(full)
    assert result.num_tokens == expected["tokens"]
    exact = strategy != "cett"
    within = 1e-5 if exact else 2e-3
    assert result.activation_ratio == pytest.approx(expected["activation_ratio"], abs=within)
    assert result.ppl_ratio == pytest.approx(expected["ppl_ratio"], abs=1e-5 if exact else 1e-3)
    if exact:
        assert result.layer_activation_ratio == pytest.approx(expected["layer_activation_ratio"], abs=1e-5)
    printed = capsys.readouterr().out.splitlines()
    assert printed[-2] == f"Average activation: {100 * result.activation_ratio:2.2f}%"
    assert printed[-1] == f"PPL ratio: {100 * result.ppl_ratio:.3f}%"
    if not exact:
        assert printed[-4] == "Thresholds List for Evaluation:"
        ours = [float(value) for value in printed[-3].removeprefix("thresholds=").split(",")]
        theirs = [float(value) for value in expected["thresholds"].split(",")]
        assert ours == pytest.approx(theirs, rel=0.01)


def test_pplp_finds_the_ratio_and_draws(tmp_path, capsys, monkeypatch, shared):
    """PPL-p% on the trained model, and the picture in the folder that the reference uses."""
    stories = (shared / "text" / "tinystories_maxme1.txt").read_text(encoding="utf-8")
    text = tmp_path / "input.txt"
    text.write_text(stories[:1200].replace("<|endoftext|>", ""), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    model = str(shared / "models" / "stories260K")
    command = ["--from-pretrained", model, "--input-file", str(text), "--prune-strategy", "pplp"]
    assert run(*command, "--prune-arg", "1.05", "--output-image") == 0
    printed = capsys.readouterr().out.splitlines()
    assert float(printed[-1].removeprefix("PPL ratio: ").rstrip("%")) == pytest.approx(105, abs=0.1)
    assert (tmp_path / "outputs" / "activation.jpg").read_bytes()[:2] == b"\xff\xd8"


def test_bad_input_gives_a_message_of_one_line(tmp_path, capsys):
    text = tmp_path / "input.txt"
    text.write_text("a few words", encoding="utf-8")
    command = ["--from-pretrained", str(tmp_path / "none"), "--input-file", str(text)]
    assert main([*command, "--prune-strategy", "topk", "--prune-arg", "2"]) == 2
    assert "must be in (0, 1], got 2.0" in capsys.readouterr().err
    assert main([*command, "--prune-strategy", "fat", "--prune-arg", "0"]) == 2
    assert "no folder" in capsys.readouterr().err
