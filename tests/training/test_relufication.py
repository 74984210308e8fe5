"""ReLU-fication: every block changes, saving keeps the change, and unsupported models are refused without a change."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from sparsing.errors import InputError, UnsupportedModelError
from sparsing.training.relufication import relufy

from ..helpers.measuring import kept_activations, loaded, text_corpus
from ..helpers.tiny import SIZES, build, tiny_input, tiny_model

REFUSED = {
    "bloom": "does not take its activation",
    "falcon_h1": "mamba",
    "mpt": "does not take its activation",
    "openai-gpt": "does not take its activation",
}


@pytest.mark.parametrize("model_type", sorted(set(SIZES) - set(REFUSED)))
def test_gates_are_relu_and_saving_keeps_it(model_type, tmp_path):
    model = relufy(build(model_type))
    for gate, h in kept_activations(loaded(model), text_corpus(32)):
        assert (gate >= 0).all()
        assert 0.05 < (h == 0).float().mean() < 0.95
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(model(tiny_input()).logits, again(tiny_input()).logits)


@pytest.mark.parametrize("model_type", sorted(REFUSED))
def test_a_change_that_saving_would_lose_is_refused(model_type):
    model = build(model_type)
    with pytest.raises(InputError, match=REFUSED[model_type]):
        relufy(model)
    with torch.no_grad():
        assert torch.equal(model(tiny_input()).logits, tiny_model(model_type)(tiny_input()).logits)
    assert model.config.to_dict() == tiny_model(model_type).config.to_dict()


def test_it_can_be_turned_back():
    model = relufy(relufy(build("llama")), "silu")
    with torch.no_grad():
        assert torch.equal(model(tiny_input()).logits, tiny_model("llama")(tiny_input()).logits)


def test_a_relu_model_is_not_changed():
    model = build("llama", hidden_act="relu")
    modules = list(model.modules())
    assert list(relufy(model).modules()) == modules


def test_the_vision_part_keeps_its_activation():
    model = build("gemma3")
    before = model.config.vision_config.hidden_act
    assert relufy(model).config.vision_config.hidden_act == before
    assert model.config.get_text_config().hidden_activation == "relu"


def test_another_name_of_its_activation_changes_nothing():
    model = build("llama", hidden_act="gelu_python")
    modules = list(model.modules())
    assert list(relufy(model, "gelu").modules()) == modules
    assert model.config.hidden_act == "gelu"


@pytest.mark.parametrize("name", ["rellu", "xielu"])
def test_unknown_activations_are_refused(name):
    with pytest.raises(InputError, match=r"known: .*relu"):
        relufy(build("llama"), name)


def test_unsupported_models_are_refused():
    with pytest.raises(UnsupportedModelError):
        relufy(torch.nn.Linear(2, 2))
