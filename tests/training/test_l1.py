"""The L1 penalty: its schedule and gradient by hand, its value against the definition, and the loss of the Trainer."""

from __future__ import annotations

import math

import pytest
import torch

from sparsing.errors import InputError
from sparsing.training.l1 import L1Penalty, L1Schedule

from ..helpers.measuring import kept_activations, loaded, text_corpus
from ..helpers.tiny import SIZES, build, tiny_input
from .trainers import losses, tiny_trainer

CONSTANT = L1Schedule(factors=(2.0,), steps=(1,))


def test_schedule_is_constant_then_cosine_stages():
    schedule = L1Schedule(factors=(0.1, 1.0, 2.0), steps=(10, 30, 40))
    assert [schedule.factor(step) for step in (1, 5, 10)] == [0.1, 0.1, 0.1]
    assert schedule.factor(20) == pytest.approx(0.55)  # half way, half the rise
    quarter = (1 - math.cos(math.pi / 4)) / 2
    assert schedule.factor(15) == pytest.approx(0.1 + 0.9 * quarter)
    assert schedule.factor(30) == pytest.approx(1.0)
    assert schedule.factor(35) == pytest.approx(1.5)
    assert [schedule.factor(step) for step in (40, 1000)] == [2.0, 2.0]
    rising = [schedule.factor(step) for step in range(1, 41)]
    assert rising == sorted(rising)


@pytest.mark.parametrize(
    ("factors", "steps"),
    [((), ()), ((0.1,), (1, 2)), ((0.1, 0.2), (5, 5)), ((0.2, 0.1), (1, 2)), ((-1.0,), (1,)), ((0.1,), (0,))],
)
def test_invalid_schedules_are_refused(factors, steps):
    with pytest.raises(InputError, match="factor"):
        L1Schedule(factors=factors, steps=steps)


@pytest.mark.parametrize("model_type", sorted(SIZES))
def test_penalty_is_the_mean_size_of_h(model_type):
    """Every supported model type, against activations kept by the measuring core, in training mode."""
    model = build(model_type, **_WITHOUT_DROPOUT.get(model_type, {})).train()
    penalty = L1Penalty(CONSTANT).attach(model)
    corpus = text_corpus(48, window=16, bos="never")
    batch = next(corpus.batches(3))
    model(input_ids=batch.ids, attention_mask=batch.real.long(), use_cache=False)
    value = penalty(1)
    penalty.remove()
    with torch.no_grad():
        kept = kept_activations(loaded(model), corpus)
    expected = sum(h.abs().mean() for _, h in kept) / len(kept)
    assert value.item() == pytest.approx(2 * expected.item(), rel=1e-4)
    value.backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


_NONE = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
_WITHOUT_DROPOUT = {
    "gpt2": _NONE,
    "gpt_bigcode": _NONE,
    "openai-gpt": _NONE,
    "biogpt": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "activation_dropout": 0.0},
    "gpt_neox_japanese": {"hidden_dropout": 0.0, "attention_dropout": 0.0},
    "opt": {"dropout": 0.0},
    "seed_oss": {"residual_dropout": 0.0, "attention_dropout": 0.0},
    "xglm": {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0},
}


@pytest.mark.parametrize("by_name", [True, False])
def test_padding_does_not_count(by_name):
    model = build("llama").train()
    ids, mask = tiny_input(2, 16), torch.ones(2, 16, dtype=torch.long)
    mask[1, 8:] = 0
    penalty = L1Penalty(CONSTANT).attach(model)
    model(input_ids=ids, attention_mask=mask) if by_name else model(ids, mask)
    padded = penalty(1).item()
    parts = []
    for row, length in ((0, 16), (1, 8)):
        model(input_ids=ids[row : row + 1, :length])
        parts += [penalty(1).item()] * length
    assert padded == pytest.approx(sum(parts) / len(parts), rel=1e-5)


def test_gradient_is_that_of_the_definition():
    """One layer's `down_proj` input by hand: d mean|h| / dh = sign(h) / count."""
    model = build("llama").train()
    seen = []
    site = model.model.layers[1].mlp.down_proj
    handle = site.register_forward_pre_hook(
        lambda module, args: (args[0].retain_grad(), seen.append(args[0]))[1]
    )
    penalty = L1Penalty(CONSTANT).attach(model)
    model(input_ids=tiny_input())
    penalty(1).backward()
    handle.remove()
    h = seen[0]
    assert torch.allclose(h.grad, 2 * h.sign() / h.numel() / 2, atol=1e-9)  # factor 2, mean over 2 layers


def test_a_penalty_without_a_forward_pass_is_refused():
    model = build("llama").train()
    penalty = L1Penalty(CONSTANT).attach(model)
    with pytest.raises(InputError, match="forward pass in training mode"):
        penalty(1)
    model.eval()(input_ids=tiny_input())
    with pytest.raises(InputError, match="forward pass in training mode"):
        penalty(1)
    with pytest.raises(InputError, match="attached already"):
        penalty.attach(model)
    penalty.remove()
    penalty.attach(model).remove()


def _enable_checkpointing(model, options):
    """Turn on gradient checkpointing by its new name where transformers has it, since the old name warns."""
    new = getattr(model, "activation_checkpointing_enable", None)
    (new or model.gradient_checkpointing_enable)(options)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(reentrant):
    """Non-reentrant checkpointing gives the same gradient; reentrant checkpointing gives none and raises an error."""
    model = build("llama").train()
    penalty = L1Penalty(CONSTANT).attach(model)
    model(input_ids=tiny_input())
    penalty(1).backward()
    plain = [p.grad.clone() for p in model.model.layers.parameters() if p.grad is not None]
    model.zero_grad()
    _enable_checkpointing(model, {"use_reentrant": reentrant})
    model(input_ids=tiny_input())
    if reentrant:
        with pytest.raises(InputError, match="use_reentrant=False"):
            penalty(1)
        return
    penalty(1).backward()
    again = [p.grad for p in model.model.layers.parameters() if p.grad is not None]
    assert all(torch.allclose(a, b, atol=1e-8) for a, b in zip(plain, again, strict=True))
    with pytest.raises(InputError, match="no activations"):
        penalty(1)  # the second run of the blocks, in the backward pass, adds nothing


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_trainers_loss_is_the_sum(accumulation, tmp_path):
    """At learning rate 0 the model stays the same, so the two losses differ by the penalty alone."""
    options = {"steps": 2, "learning_rate": 0.0, "gradient_accumulation_steps": accumulation}
    plain = tiny_trainer(tmp_path / "plain", **options)
    plain.train()
    joined = tiny_trainer(tmp_path / "joined", **options)
    schedule = L1Schedule(factors=(1.0, 3.0), steps=(1, 2))
    penalty = L1Penalty(schedule).attach_to(joined)
    joined.train()
    difference = [a - b for a, b in zip(losses(joined), losses(plain), strict=True)]
    penalty.remove()
    model = build("llama").train()
    fresh = L1Penalty(CONSTANT).attach(model)
    model(input_ids=tiny_input(64, 16))
    typical = fresh(1).item() / 2
    assert difference[0] == pytest.approx(typical, rel=0.1)
    assert difference[1] == pytest.approx(3 * typical, rel=0.1)


def test_evaluation_is_not_penalised(tmp_path):
    trainer = tiny_trainer(tmp_path / "joined")
    before = trainer.evaluate(trainer.train_dataset)["eval_loss"]
    L1Penalty(CONSTANT).attach_to(trainer)
    assert trainer.evaluate(trainer.train_dataset)["eval_loss"] == before


def test_it_makes_a_model_sparser(tmp_path):
    def mean_size(factor: float) -> float:
        trainer = tiny_trainer(tmp_path / str(factor), build("llama", hidden_act="relu"), steps=30)
        L1Penalty(L1Schedule(factors=(factor,), steps=(1,))).attach_to(trainer)
        trainer.train()
        return sum(h.abs().mean().item() for _, h in kept_activations(loaded(trainer.model), text_corpus(64)))

    assert mean_size(30.0) < 0.8 * mean_size(0.0)
