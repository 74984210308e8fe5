"""SmolLM2-135M from its GGUF file: figures equal those of a converted folder, of transformers, and of a bare hook."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from sparsing.cli import main
from sparsing.demo import heldout_text
from sparsing.measuring._measure import measure
from sparsing.measuring.subject import Subject
from sparsing.models.loading import load_model
from sparsing.rules.mask import sparsify
from sparsing.text.corpus import load_corpus

pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore:.*weights of F32:UserWarning")]
WINDOW, TOKENS, CETT = 128, 512, 0.0447
"""A CETT near PPL-1%."""
PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def loaded(gguf_file):
    return load_model(gguf_file)


@pytest.fixture(scope="module")
def folder(loaded, tmp_path_factory):
    """The model as a folder: transformers refuses to save a model that came from a GGUF file, so it is copied."""
    config = copy.deepcopy(loaded.model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(loaded.model.state_dict())
    path = tmp_path_factory.mktemp("converted") / "smollm2"
    model.save_pretrained(path)
    loaded.tokenizer.save_pretrained(path)
    return path


def corpus_of(loaded):
    text = heldout_text()[-40_000:]  # topics of the manual
    return load_corpus([text], loaded.tokenizer, window=WINDOW, max_tokens=TOKENS)


@pytest.fixture(scope="module")
def result(loaded):
    return measure(Subject(loaded, corpus_of(loaded)), "cett", level=CETT)


def test_a_converted_folder_gives_the_same_figures(loaded, folder, result):
    other = load_model(folder)
    assert other.dtype == loaded.dtype == "float32"
    assert corpus_of(other).ids.tolist() == corpus_of(loaded).ids.tolist()
    again = measure(Subject(other, corpus_of(other)), "cett", level=CETT)
    assert again.thresholds.values == result.thresholds.values
    assert (again.ppl_dense, again.ppl_sparse) == (result.ppl_dense, result.ppl_sparse)
    assert again.layer_activation_ratio == result.layer_activation_ratio
    assert again.layer_activation_ratio_interval == result.layer_activation_ratio_interval


def perplexity(model, corpus) -> float:
    """From the logits of the model, in float64."""
    windows = torch.from_numpy(corpus.ids.astype("int64")).view(-1, WINDOW)
    with torch.no_grad():
        losses = [
            torch.nn.functional.cross_entropy(model(ids[None]).logits[0, :-1].double(), ids[1:])
            for ids in windows
        ]
    return math.exp(float(torch.stack(losses).mean()))


def test_dense_perplexity_is_that_of_transformers(gguf_file, loaded, result):
    model = AutoModelForCausalLM.from_pretrained(
        gguf_file.parent, gguf_file=gguf_file.name, dtype=torch.float32
    )
    assert perplexity(model, corpus_of(loaded)) == pytest.approx(result.ppl_dense, rel=1e-6)
    assert 5 < result.ppl_dense < 40


def test_a_bare_hook_counts_the_same(loaded, result):
    corpus, active, tokens = corpus_of(loaded), 0.0, 0
    layers = loaded.model.model.layers
    cuts = [result.thresholds.values[site.name] for site in loaded.sites]

    def cut(layer):
        limit = torch.tensor(cuts[layer]) / layers[layer].mlp.down_proj.weight.norm(dim=0)

        def hook(_module, inputs):
            nonlocal active, tokens
            keep = inputs[0].abs() > limit
            active, tokens = active + float(keep.sum()), tokens + keep.numel()
            return (inputs[0] * keep,)

        return hook

    handles = [block.mlp.down_proj.register_forward_pre_hook(cut(i)) for i, block in enumerate(layers)]
    try:
        sparse = perplexity(loaded.model, corpus)
    finally:
        for handle in handles:
            handle.remove()
    assert sparse == pytest.approx(result.ppl_sparse, rel=1e-6)
    assert active / tokens == pytest.approx(result.activation_ratio, abs=1e-12)
    assert 0.5 < result.activation_ratio < 0.8


def test_it_knows_the_capital_of_france(loaded, result):
    ids = loaded.tokenizer(PROMPT, return_tensors="pt")

    def answer() -> str:
        written = loaded.model.generate(**ids, max_new_tokens=2, do_sample=False)
        return loaded.tokenizer.decode(written[0])

    assert answer() == f"{PROMPT} Paris."
    with sparsify(loaded.model, result.thresholds):
        assert answer() == f"{PROMPT} Paris."


def test_thresholds_of_the_file_are_those_of_generate(gguf_file, result, tmp_path, capsys):
    for package in ("llama_cpp", "numba"):
        pytest.importorskip(package, reason="needs the engine: pip install 'sparsing[engine]'")
    path = result.thresholds.save(tmp_path / "thresholds.json")
    command = ["generate", str(gguf_file), "--thresholds", str(path), "--prompt", PROMPT]
    assert main([*command, "--max-new-tokens", "16", "--no-measure", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["text"].startswith(f"{PROMPT} Paris.")
    assert made["stats"]["activation_ratio"] == pytest.approx(result.activation_ratio, abs=0.1)
