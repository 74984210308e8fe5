"""FATReLU: the threshold acts in training, kept neurons get gradients, and checkpoints get a thresholds file."""

from __future__ import annotations

import pytest
import torch

from sparsing.errors import InputError
from sparsing.rules.mask import sparsify
from sparsing.rules.thresholds import read_thresholds
from sparsing.training.fatrelu import FATReLU

from ..helpers.tiny import build, tiny_input
from .trainers import losses, tiny_trainer


def relu_model():
    return build("llama", hidden_act="relu")


def test_it_is_the_rule_fat():
    model, ids = relu_model(), tiny_input()
    fat = FATReLU(0.1).attach(model)
    with torch.no_grad():
        applied = model(ids).logits
    fat.remove()
    with torch.no_grad(), sparsify(model, fat.thresholds(model)):
        assert torch.equal(model(ids).logits, applied)
    with torch.no_grad():
        assert not torch.equal(model(ids).logits, applied), "remove() gives the model back"


def test_only_kept_neurons_learn():
    """A neuron whose gate is not above eps has h = 0 and gets no gradient."""
    model = relu_model().train()
    act, down = model.model.layers[0].mlp.act_fn, model.model.layers[0].mlp.down_proj
    gates, inputs = [], []
    act.register_forward_hook(lambda module, args, output: (output.retain_grad(), gates.append(output))[0])
    FATReLU(0.5).attach(model)
    down.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    model(input_ids=tiny_input(), labels=tiny_input()).loss.backward()
    cut = gates[0] <= 0.5
    assert 0.2 < cut.float().mean() < 1.0
    assert (gates[0] > 0)[cut].any(), "some gates between 0 and eps"
    assert not inputs[0][cut].any()
    assert not gates[0].grad[cut].any()
    assert gates[0].grad[~cut].any()


def test_a_trainer_trains_with_it_and_saves_it(tmp_path):
    plain = tiny_trainer(tmp_path / "plain", relu_model(), steps=4)
    plain.train()
    options = {"steps": 4, "save_strategy": "steps", "save_steps": 2}
    trainer = tiny_trainer(tmp_path / "fat", relu_model(), callbacks=[FATReLU(0.3)], **options)
    trainer.train()
    assert losses(trainer) != losses(plain)
    saved = read_thresholds(tmp_path / "fat" / "checkpoint-4" / "thresholds.json")
    assert (saved.rule, saved.on, saved.numbers) == ("fat", "gate", (0.3, 0.3))
    assert (tmp_path / "fat" / "checkpoint-2" / "thresholds.json").exists()


def test_misuse_is_refused():
    with pytest.raises(InputError, match="eps"):
        FATReLU(-0.1)
    fat = FATReLU(0.1).attach(relu_model())
    with pytest.raises(InputError, match="attached already"):
        fat.attach(relu_model())
