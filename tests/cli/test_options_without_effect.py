"""No command drops an option in silence: an option that would have no effect is refused before any work."""

from __future__ import annotations

import json

import pytest

from sparsing.cli import build_parser, main

from ..helpers.texts import write_jsonl
from ..helpers.tiny import save_checkpoint, tiny_model

CASES = {
    "measure": [
        ("--thresholds T --rule fat", "--rule would have no effect with --thresholds"),
        ("--thresholds T --tolerance 0.01", "--tolerance would have no effect with --thresholds"),
        ("--rule fat --level 0.1 --tolerance 0.01", "--tolerance would have no effect with --level"),
        ("--rule cett --scope sequence", "--scope would have no effect without --rule top_k"),
        ("--cett-from MODEL --tolerance 0.01", "--tolerance would have no effect with --cett-from"),
        ("--documents --stride 16", "--stride has no effect with --documents"),
        (r"--documents --join \n\n", "--join has no effect with --documents"),
        ("--split test", "--split chooses a part of a dataset"),
        ("--column body", "--column chooses a column of rows"),
        ("--bos never --count-bos", "--count-bos would have no effect, because no BOS token"),
        ("--revision main", "--revision chooses a version on the hub"),
    ],
    "compare": [("--documents --stride 16", "--stride has no effect with --documents")],
    "advise": [("--split test", "--split chooses a part of a dataset")],
    "neurons": [
        ("--split test", "--split chooses a part of a dataset"),
        ("--revision main", "--revision chooses a version on the hub"),
    ],
    "generate": [
        ("--dense --recall 0.9", "--recall would have no effect without --predict"),
        ("--thresholds T --save-predictor p.json", "--save-predictor would have no effect without --predict"),
        (
            "--thresholds T --text TEXT --max-tokens 9",
            "--text and --max-tokens would have no effect without --predict",
        ),
        ("--dense --predict 4 --text TEXT", "--predict would have no effect with --dense"),
        ("--dense --predictor p.json", "--predictor would have no effect with --dense"),
    ],
    "evaluate": [
        ("--tasks piqa --text TEXT", "--text would have no effect without --ppl; leave out it"),
        (
            "--tasks piqa --holdout 0.2 --window 32",
            "--window and --holdout would have no effect without --ppl",
        ),
    ],
    "bench": [
        ("--shape 0.8B --thresholds T", "--thresholds would have no effect without --model"),
        ("--whole --text TEXT", "--text would have no effect without --model"),
        ("--whole --batch 4", "--batch would have no effect on a whole model"),
        ("--whole --engines eager", "--engines eager would have no effect on a whole model"),
        ("--shape 0.8B --new-tokens 5", "--new-tokens would have no effect on a block; add --whole"),
        ("--model MODEL --thresholds T --ratio 0.5", "--ratio would have no effect with --model"),
    ],
}
BASE = {
    **dict.fromkeys(("measure", "compare", "advise", "neurons"), "MODEL --text TEXT"),
    "generate": "MODEL --prompt a",
    "evaluate": "MODEL",
    "bench": "",
}


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [(command, options, message) for command, cases in CASES.items() for options, message in cases],
)
def test_an_option_without_effect_is_refused(command, options, message, checkpoint, text, tmp_path, capsys):
    from sparsing.rules.thresholds import Thresholds

    thresholds = Thresholds(rule="fat", level=0.1, on="gate", values={"model.layers.0.mlp.down_proj": 0.1})
    places = {"MODEL": checkpoint, "TEXT": text, "T": thresholds.save(tmp_path / "t.json")}
    words = [str(places.get(word, word)) for word in f"{BASE[command]} {options}".split()]
    quiet = [] if command == "bench" else ["--quiet"]
    assert (
        main([command, *words, *quiet, *([] if command == "generate" else ["-o", str(tmp_path / "out")])])
        == 2
    )
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert message in captured.err


def test_options_that_a_source_needs_are_applied(checkpoint, tmp_path, capsys):
    """The same rows by another column, another separator and another number of windows give other figures."""
    rows = write_jsonl(tmp_path / "a.jsonl", [{"text": "abc def " * 40, "body": "xyz " * 80}] * 4)
    seen = set()
    choices = ([], ["--column", "body"], ["--join", r"\n\n"], ["--stride", "7"], ["--documents"])
    for number, options in enumerate(choices):
        command = [
            "measure",
            str(checkpoint),
            "--text",
            str(rows),
            "--rule",
            "fat",
            "--level",
            "0.1",
            "--json",
        ]
        command += [
            "--window",
            "32",
            "--quiet",
            "--no-figures",
            "--holdout",
            "0",
            "-o",
            str(tmp_path / str(number)),
        ]
        assert main([*command, *options]) == 0
        result = json.loads(capsys.readouterr().out)[0]
        seen.add((result["num_tokens"], result["ppl_dense"]))
    assert len(seen) == 5


def test_a_line_break_in_join_can_be_written_in_a_shell(checkpoint):
    args = build_parser().parse_args(["measure", "m", "--text", "t", "--join", r"\n\t|"])
    assert args.join == "\n\t|"


def test_a_run_of_another_model_does_not_overwrite(checkpoint, text, tmp_path, capsys):
    """Also with an explicit folder: `runA/last` and `runB/last` cannot be mixed."""
    out, other = tmp_path / "out", save_checkpoint(tmp_path / "runB" / checkpoint.name, tiny_model("llama"))
    where = ["--window", "48", "--quiet", "-o", str(out)]
    options = ["--text", str(text), "--max-tokens", "300", *where]
    assert (
        main(["measure", str(checkpoint), "--rule", "fat", "--level", "0.1", "--no-figures", *options]) == 0
    )
    saved = (out / "fat-0.1" / "measurement.json").read_bytes()
    capsys.readouterr()
    for command in ("measure", "compare", "advise", "neurons"):
        assert main([command, str(other), *options]) == 2
        assert "holds results of another model" in capsys.readouterr().err
    assert (out / "fat-0.1" / "measurement.json").read_bytes() == saved
