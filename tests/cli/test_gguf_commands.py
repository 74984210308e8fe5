"""`generate`, `bench` and `advise` with a GGUF file: the ReLU demo model, exported with its own tokenizer."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from sparsing.base.extras import install_command
from sparsing.cli import main
from sparsing.models.loading import load_model
from sparsing.rules.mask import sparsify
from sparsing.rules.thresholds import Thresholds

from ..helpers.gguf_models import error

PROMPT = "import os\n\ndef read_lines(path):\n"


@pytest.fixture(scope="module")
def loaded():
    from sparsing.demo import checkpoints

    return load_model(checkpoints("relu")[-1], dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def thresholds(loaded):
    values = {site.name: 0.05 for site in loaded.sites}
    return Thresholds(rule="cett", level=0.1, on="neuron_norm", values=values)


@pytest.fixture(scope="module")
def files(loaded, thresholds, tmp_path_factory):
    from sparsing.models.gguf_export import export_gguf

    folder = tmp_path_factory.mktemp("gguf")
    path = export_gguf(loaded.model, folder / "relu.gguf", weight_type="F16", tokenizer=loaded.tokenizer)
    return str(path), str(thresholds.save(folder / "thresholds.json"))


def test_tokenizer_of_the_file_is_the_own_one(loaded, files):
    from sparsing.decode.engine.vocabulary import Vocabulary

    with Vocabulary(files[0]) as vocabulary:
        for text in (PROMPT, "a  b\n\n\tc = 3.14159  # caf\u00e9 \u4e2d", ""):
            ids = loaded.tokenizer(text)["input_ids"]
            assert vocabulary.encode(text) == ids
            assert vocabulary.decode(ids) == text
        assert vocabulary.end_id == loaded.tokenizer.eos_token_id


def test_quality_is_that_of_the_masked_checkpoint(loaded, thresholds, files):
    from sparsing.decode.engine import open_engine
    from sparsing.decode.engine.rule import sparse_rule
    from sparsing.demo import heldout_text

    ids = loaded.tokenizer(heldout_text()[:4000])["input_ids"][:480]
    with sparsify(loaded.model, thresholds), torch.inference_mode():
        wanted = loaded.model(torch.tensor([ids])).logits[0]
    with open_engine(files[0], context=len(ids), threads=1) as engine:
        engine.rule = sparse_rule(engine.arch, engine.weights, thresholds)
        got = torch.from_numpy(engine.read(ids, all_logits=True))
    assert error(got, wanted) < 2e-2
    target = torch.tensor(ids[1:])
    losses = [torch.nn.functional.cross_entropy(logits[:-1], target) for logits in (wanted, got)]
    assert float((losses[1] - losses[0]).exp()) == pytest.approx(1, abs=2e-3)


def test_generate_writes_the_text_of_the_masked_checkpoint(loaded, thresholds, files, capsys):
    command = ["generate", files[0], "--prompt", PROMPT, "--max-new-tokens", "16", "--quiet"]
    assert main([*command, "--thresholds", files[1], "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    ids = loaded.tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    with sparsify(loaded.model, thresholds):
        wanted = loaded.model.generate(ids, max_new_tokens=16, do_sample=False)
    assert made["text"] == loaded.tokenizer.decode(wanted[0], skip_special_tokens=True)
    assert 0 < made["stats"]["activation_ratio"] < 1
    assert main([*command, "--dense", "--stats"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(PROMPT)
    for word in ("tokens/s after it", "dense decoding", "feed-forward"):
        assert word in out


def test_a_file_is_recognised_by_its_first_bytes(files, tmp_path, capsys, monkeypatch):
    """`measure` reads such a file as GGUF too, so a downloaded blob needs no new name."""
    shutil.copy(files[0], tmp_path / "blob")
    monkeypatch.setenv("HOME", str(tmp_path))
    made = []
    for model in (files[0], str(tmp_path / "blob"), "~/blob"):
        command = [
            "generate",
            model,
            "--prompt",
            PROMPT,
            "--max-new-tokens",
            "4",
            "--dense",
            "--json",
            "--quiet",
        ]
        assert main(command) == 0
        made.append(json.loads(capsys.readouterr().out))
    for one in made:
        assert one["text"] == made[0]["text"]
        assert one["stats"]["sparse_layers"] == 0, "figures of the engine of GGUF files"


def test_generate_samples_by_seed(files, capsys):
    command = ["generate", files[0], "--prompt", PROMPT, "--max-new-tokens", "12", "--no-measure"]
    texts = []
    for seed in ("1", "1", "2"):
        assert main([*command, "--temperature", "1", "--top-p", "0.95", "--top-k", "50", "--seed", seed]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]


def test_bench_and_advise_compare_with_llama_cpp(files, tmp_path, capsys):
    from sparsing.bench.gguf_result import GgufBenchmark

    command = ["bench", "--model", files[0], "--thresholds", files[1], "--rounds", "1", "--new-tokens", "4"]
    assert main([*command, "-o", str(tmp_path), "--quiet"]) == 0
    out = capsys.readouterr().out
    for word in ("llama.cpp", "own dense", "own sparse", "feed-forward blocks take"):
        assert word in out
    bench = GgufBenchmark.load(tmp_path / "gguf.json")
    assert [line.name for line in bench.lines] == ["llama.cpp", "own dense", "own sparse"]
    assert bench.line("llama.cpp").speedup == 1
    assert main(["advise", files[0], "--new-tokens", "4", "--quiet"]) == 0
    assert "advice:" in capsys.readouterr().out


def test_a_file_that_overflows(tmp_path, capsys):
    """A weight that is infinite: every command ends with the layer, and prints no figures."""
    path = broken_file(tmp_path)
    for command in (["generate", path, "--prompt", "import os", "--dense"], ["bench", "--model", path]):
        command += [] if "generate" in command else ["-o", str(tmp_path), "--quiet", "--new-tokens", "4"]
        assert main(command) == 2
        captured = capsys.readouterr()
        assert "the output of layer 1 (blk.1) is NaN or infinite" in captured.err
        assert not captured.out
    assert main(["advise", path, "--new-tokens", "4", "--quiet"]) == 2
    assert "the output of layer 1 (blk.1) is NaN or infinite" in capsys.readouterr().err
    assert not (tmp_path / "gguf.json").exists()


def broken_file(folder) -> str:
    """The ReLU demo model with an infinite weight in layer 1."""
    from sparsing.demo import checkpoints
    from sparsing.models.gguf_export import export_gguf

    broken = load_model(checkpoints("relu")[-1], dtype="float32", device="cpu")
    with torch.no_grad():
        broken.model.model.layers[1].self_attn.o_proj.weight[3, :] = torch.inf
    path = export_gguf(broken.model, folder / "broken.gguf", weight_type="F32", tokenizer=broken.tokenizer)
    return str(path)


@pytest.mark.parametrize("package", ["llama_cpp", "numba"])
def test_a_missing_package_of_the_engine_is_named(package, files, monkeypatch, capsys):
    from importlib.util import find_spec

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == package else find_spec(name))
    for command in (
        ["generate", files[0], "--prompt", "a"],
        ["bench", "--model", files[0]],
        ["advise", files[0]],
    ):
        assert main(command) == 2
        message = f"decoding GGUF files needs {package}: {install_command('engine')}"
        assert message in capsys.readouterr().err


def test_options_without_meaning_are_refused(files, checkpoint, capsys):
    generate = ["generate", files[0], "--prompt", "a"]
    for option, message in (
        (["--predict", "4"], "--predict cannot be used here"),
        (["--dtype", "float32"], "--dtype cannot be used here"),
        (["--recall", "0.9", "--max-tokens", "5"], "--recall, --max-tokens cannot be used here"),
        (["--tokenizer", "x"], "--tokenizer cannot be used here"),
        (["--temperature", "-1"], "sampling needs"),
    ):
        assert main([*generate, *option]) == 2
        assert message in capsys.readouterr().err
    assert main(["generate", str(checkpoint), "--prompt", "a", "--dense", "--seed", "3"]) == 2
    assert "decoded greedily" in capsys.readouterr().err
    assert main(["generate", str(checkpoint), "--prompt", "a", "--dense", "--two-part-inputs"]) == 2
    assert "inputs of a checkpoint are not rounded" in capsys.readouterr().err
    assert main(["advise", str(checkpoint)]) == 2
    assert "give --text" in capsys.readouterr().err
    assert main(["generate", "missing.gguf", "--prompt", "a"]) == 2
    assert "missing.gguf" in capsys.readouterr().err
