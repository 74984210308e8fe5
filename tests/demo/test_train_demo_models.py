"""The training script on a tiny shape: it learns, it repeats itself, its checkpoints load, its laws hold."""

import dataclasses
import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import AutoTokenizer, GraniteForCausalLM

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "train_demo_models.py"
TEXTS = [f"def f{i}(x):\n    return x + {i}  # adds {i}\n" * 20 for i in range(30)]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_demo_models", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recipe(script):
    return script.Recipe(
        d_model=32,
        n_layers=2,
        n_heads=2,
        n_kv_heads=1,
        vocab_size=300,
        context=64,
        steps=12,
        checkpoints=(0.5, 1.0),
    )


@pytest.fixture(scope="module")
def tokenizer(script, recipe):
    return script.train_tokenizer(iter(TEXTS), recipe.vocab_size, recipe.context)


def run(script, recipe, tokenizer, folder: Path, activation: str = "relu") -> list[dict]:
    return script.train(activation, recipe, folder, tokenizer, TEXTS[:25], TEXTS[25:])


def test_same_seed_gives_the_same_losses_and_another_seed_does_not(script, recipe, tokenizer, tmp_path):
    first = [entry["loss"] for entry in run(script, recipe, tokenizer, tmp_path / "a")]
    again = [entry["loss"] for entry in run(script, recipe, tokenizer, tmp_path / "b")]
    other = run(script, dataclasses.replace(recipe, seed=2), tokenizer, tmp_path / "c")
    assert first == again
    assert first != [entry["loss"] for entry in other]
    assert first[-1] < first[0] - 1


def test_checkpoint_folder_loads_by_itself_and_agrees_with_the_log(script, recipe, tokenizer, tmp_path):
    log = run(script, recipe, tokenizer, tmp_path, "silu")
    folders = sorted((tmp_path / "silu").iterdir(), key=lambda folder: int(state(folder)["step"]))
    assert [state(folder)["step"] for folder in folders] == [6, 12]
    assert state(folders[-1])["tokens"] == 12 * recipe.batch * recipe.context
    model = GraniteForCausalLM.from_pretrained(folders[-1])
    assert model.dtype == torch.float16
    heldout = script.token_stream(AutoTokenizer.from_pretrained(folders[-1]), TEXTS[25:])
    judged = script.judge(model.float(), heldout, 10**9)
    assert judged["loss"] == pytest.approx(log[-1]["heldout"]["loss"], abs=2e-3)


def state(folder: Path) -> dict[str, float]:
    return json.loads((folder / "training_state.json").read_text("utf-8"))


def test_batches_repeat_with_the_seed_and_cover_an_epoch_once(script, recipe):
    stream = torch.arange(64 * 8 + 63)
    epochs, again = script.batches(stream, recipe), script.batches(stream, recipe)
    two = [next(epochs), next(epochs)]
    assert all(torch.equal(a, next(again)) for a in two)
    assert len(torch.cat(two).unique()) == 2 * recipe.batch * recipe.context


def test_schedule_warms_up_holds_and_falls_to_zero(script, recipe):
    long = dataclasses.replace(recipe, steps=100, warmup=0.1, decay=0.2)
    factors = [script.wsd(step, long) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert set(factors[9:81]) == {1.0}
    assert factors[90] == pytest.approx(0.5)
    assert factors[99] == pytest.approx(0.05)
    assert script.wsd(100, long) == 0


def test_hidden_matrices_start_and_learn_at_the_mup_scale(script, recipe, tokenizer):
    wide = dataclasses.replace(recipe, d_model=256)
    model = script.build_model("relu", wide, tokenizer)
    layer = model.model.layers[0]
    assert layer.mlp.gate_proj.weight.std().item() == pytest.approx(0.1 / math.sqrt(256 / 64), rel=0.02)
    assert model.model.embed_tokens.weight.std().item() == pytest.approx(0.1, rel=0.02)
    rates = {
        id(p): group["lr"]
        for group in script.make_optimizer(model, wide).param_groups
        for p in group["params"]
    }
    assert rates[id(layer.mlp.down_proj.weight)] == pytest.approx(wide.lr / 4)
    assert rates[id(model.model.embed_tokens.weight)] == wide.lr
    assert len(rates) == len(list(model.parameters()))


def test_judge_finds_a_dead_neuron_and_counts_zeros(script, recipe, tokenizer):
    model = script.build_model("relu", recipe, tokenizer)
    with torch.no_grad():
        model.model.layers[1].mlp.gate_proj.weight[:8] = 0
    judged = script.judge(model, script.token_stream(tokenizer, TEXTS), 8)
    assert judged["dead"][1] >= 8 / 80
    assert 0.3 < judged["zeros"][0] < 0.7
    assert 0.3 < judged["zeros"][1] < 0.8
    assert judged["loss"] > math.log(300) - 1
