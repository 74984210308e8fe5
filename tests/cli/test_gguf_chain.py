"""The whole way of a ReLU model of one's own: `train`, `measure`, export as GGUF, `generate`; no step costs quality."""

from __future__ import annotations

import json

import pytest
import torch

from sparsing.cli import main
from sparsing.models.loading import load_model
from sparsing.rules.mask import sparsify
from sparsing.rules.thresholds import read_thresholds

from ..helpers.gguf_models import error

TOML = """
[model]
d_model = 64
n_layers = 2
n_heads = 2
vocab_size = 280
context = 128
dim_model_base = 16

[training]
tokens = 16384
batch_tokens = 512
"""
PROMPT = "the cat "


@pytest.fixture(scope="module")
def trained(text, tmp_path_factory):
    """Folder of the last checkpoint of a training run of 32 steps, and a file with its thresholds at PPL-1%."""
    folder = tmp_path_factory.mktemp("chain")
    (folder / "run.toml").write_text(TOML, encoding="utf-8")
    command = ["train", str(folder / "run.toml"), "--text", str(text), "-o", str(folder / "run")]
    assert main([*command, "--quiet", "--no-figures"]) == 0
    checkpoint = max((folder / "run").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    measured = ["measure", str(checkpoint), "--text", str(text), "-o", str(folder / "measured"), "--quiet"]
    assert main([*measured, "--window", "128"]) == 0
    return checkpoint, folder / "measured" / "cett-ppl-1" / "thresholds.json"


@pytest.fixture(scope="module")
def loaded(trained):
    return load_model(trained[0], dtype="float32", device="cpu")


def exported(loaded, folder, weight_type):
    from sparsing.models.gguf_export import export_gguf

    path = folder / f"{weight_type}.gguf"
    return export_gguf(loaded.model, path, weight_type=weight_type, tokenizer=loaded.tokenizer)


@pytest.mark.parametrize(("weight_type", "limit"), [("F32", 1e-3), ("F16", 1e-3), ("Q8_0", 3e-3)])
def test_perplexity_is_that_of_the_masked_model(loaded, trained, text, tmp_path, weight_type, limit):
    from sparsing.decode.engine import open_engine
    from sparsing.decode.engine.rule import sparse_rule
    from sparsing.decode.engine.writing import engine_stats

    thresholds = read_thresholds(trained[1])
    ids = loaded.tokenizer(text.read_text("utf-8"))["input_ids"][:128]
    with sparsify(loaded.model, thresholds), torch.inference_mode():
        wanted = loaded.model(torch.tensor([ids])).logits[0]
    with open_engine(exported(loaded, tmp_path, weight_type), context=len(ids), threads=1) as engine:
        engine.rule = sparse_rule(engine.arch, engine.weights, thresholds)
        got = torch.from_numpy(engine.read(ids, all_logits=True))
        assert 0 < engine_stats(engine, len(ids)).activation_ratio < 0.9
    assert error(got, wanted) < 3e-2
    target = torch.tensor(ids[1:])
    losses = [torch.nn.functional.cross_entropy(logits[:-1], target) for logits in (wanted, got)]
    assert float((losses[1] - losses[0]).exp()) == pytest.approx(1, abs=limit)


@pytest.mark.parametrize("weight_type", ["F32", "F16"])
def test_generate_writes_the_text_of_the_masked_model(loaded, trained, tmp_path, capsys, weight_type):
    path = exported(loaded, tmp_path, weight_type)
    command = ["generate", str(path), "--prompt", PROMPT, "--max-new-tokens", "32", "--json", "--quiet"]
    assert main([*command, "--thresholds", str(trained[1])]) == 0
    made = json.loads(capsys.readouterr().out)
    ids = loaded.tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    with sparsify(loaded.model, read_thresholds(trained[1])):
        wanted = loaded.model.generate(ids, max_new_tokens=32, do_sample=False)
    assert made["text"] == loaded.tokenizer.decode(wanted[0], skip_special_tokens=True)
    assert 0 < made["stats"]["activation_ratio"] < 0.9


def test_advise_and_bench_say_where_the_time_goes(loaded, trained, tmp_path, capsys):
    path = exported(loaded, tmp_path, "Q8_0")
    options = ["--thresholds", str(trained[1]), "--new-tokens", "4", "--quiet"]
    for command in (["advise", str(path)], ["bench", "--model", str(path), "-o", str(tmp_path / "bench")]):
        assert main([*command, *options]) == 0
        out = capsys.readouterr().out
        for words in ("shares of the time", "attention", "head", "skipping neurons can bring at most"):
            assert words in out
        assert ("advice: " in out) == (command[0] == "advise")
