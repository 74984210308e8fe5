"""A checkpoint that overflows at one token ends every command with the layer and the way out, and with no figures."""

from __future__ import annotations

import json

import pytest
import torch

from sparsing.cli import main
from sparsing.rules.thresholds import Thresholds

from ..helpers.measuring import random_text
from ..helpers.overflow import BAD, overflowing
from ..helpers.tiny import save_checkpoint

MESSAGE = "the input of down_proj of layer 1 (model.layers.1.mlp.down_proj) is NaN or infinite in float32; try --dtype"
CASES = {
    "measure": "MODEL --text TEXT --window 32",
    "measure --level": "MODEL --text TEXT --window 32 --rule fat --level 0.1",
    "compare": "MODEL --text TEXT --window 32",
    "neurons": "MODEL --text TEXT --window 32",
    "advise": "MODEL --text TEXT --window 32 --new-tokens 4",
    "generate": "MODEL --prompt ab~ --thresholds CUTS --max-new-tokens 4 --no-measure",
    "generate --dense": "MODEL --prompt ab~ --dense --max-new-tokens 4 --no-measure",
    "bench": "--model MODEL --text TEXT --thresholds CUTS --rounds 1 --prompt-tokens 8 --new-tokens 4 --engines",
    "track": "RUN --text TEXT --window 32 --last 1",
    "evaluate": "MODEL --tasks copa --task-data DATA --limit 2",
}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The words of `CASES` that stand for files and folders."""
    folder = tmp_path_factory.mktemp("overflow")
    model = save_checkpoint(folder / "run" / "checkpoint-1", overflowing(torch.float32))
    (model / "training_state.json").write_text(json.dumps({"step": 1, "tokens": 1000}), encoding="utf-8")
    text = folder / "book.txt"
    # the last token of the prompt of `bench`, which takes 664 tokens
    text.write_text(random_text(659) + BAD + random_text(300), encoding="utf-8")
    cuts = Thresholds(rule="fat", level=0.01, on="gate", values=(0.01, 0.01)).save(folder / "cuts.json")
    (folder / "copa").mkdir()
    item = {
        "premise": "The man slept.",
        "question": "cause",
        "choice1": "He ran~ fast.",
        "choice2": "It rained.",
    }
    rows = [json.dumps({**item, "label": i, "idx": i}) for i in range(2)]
    (folder / "copa" / "val.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return {"MODEL": model, "TEXT": text, "CUTS": cuts, "RUN": model.parent, "DATA": folder}


@pytest.mark.filterwarnings("ignore:.*too few to distinguish levels:UserWarning")
@pytest.mark.parametrize("case", CASES)
def test_every_command_names_the_layer(case, places, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("sparsing.hardware.bandwidth.last_cache_bytes", lambda: 2**16)
    command = case.split()[0]
    if command in ("generate", "bench", "advise"):
        pytest.importorskip("numba", reason="the CPU kernels need numba: pip install 'sparsing[cpu]'")
    if command == "evaluate":
        pytest.importorskip("lm_eval", reason="needs lm-eval: pip install 'sparsing[eval]'")
    words = [str(places.get(word, word)) for word in CASES[case].split()]
    out = [] if command == "generate" else ["-o", str(tmp_path / "out"), "--quiet"]
    assert main([command, *words, *out]) == 2
    captured = capsys.readouterr()
    assert MESSAGE in captured.err
    assert captured.out == ""
    results = [path for path in (tmp_path / "out").rglob("*.json") if path.name != "run.json"]
    assert not [path for path in results if "journal" not in str(path)]
