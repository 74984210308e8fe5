"""The identity of a model covers every byte of its weights, its configuration and its tokenizer."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from sparsing.models.identity import digest_tokenizer, identify
from sparsing.models.loading import LoadedModel

from ..helpers import measuring
from ..helpers.coded import Codes


def tiny_loaded() -> LoadedModel:
    """A copy that a test may change."""
    loaded = measuring.tiny_loaded()
    return LoadedModel.of(copy.deepcopy(loaded.model), copy.deepcopy(loaded.tokenizer))


def changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return [name for name in before if before[name] != after[name]]


def test_it_is_the_same_for_an_equal_model():
    assert identify(tiny_loaded()) == identify(tiny_loaded())


def test_permuted_neurons_have_the_same_sums_and_another_identity():
    loaded, other = tiny_loaded(), tiny_loaded()
    weight = other.sites[0].down_proj.weight
    with torch.no_grad():
        before = weight.double().sum().item()
        weight.copy_(weight[torch.arange(len(weight) - 1, -1, -1)].clone())
        assert weight.double().sum().item() == pytest.approx(before)
    assert changed(identify(loaded), identify(other)) == ["weights"]


def test_a_negative_zero_is_another_weight():
    loaded, other = tiny_loaded(), tiny_loaded()
    with torch.no_grad():
        loaded.sites[0].down_proj.weight[0, 0] = 0.0
        other.sites[0].down_proj.weight[0, 0] = -0.0
    assert changed(identify(loaded), identify(other)) == ["weights"]


def coded() -> LoadedModel:
    model = tiny_loaded().model
    model.model.layers[0].mlp.down_proj = Codes(model.model.layers[0].mlp.down_proj)
    return LoadedModel.of(model, tiny_loaded().tokenizer)


@pytest.mark.parametrize("buffer", ["weight", "scale"])
def test_codes_and_scales_of_quantised_weights_are_buffers(buffer):
    loaded, other = coded(), coded()
    assert identify(loaded) == identify(other)
    getattr(other.sites[0].down_proj, buffer)[..., 0] += 1
    assert changed(identify(loaded), identify(other)) == ["weights"]


def test_the_commit_stands_for_weights_of_the_hub_that_are_not_in_memory():
    loaded = tiny_loaded()
    loaded.model.lm_head.weight = torch.nn.Parameter(loaded.model.lm_head.weight.to("meta"))
    one, same, other = (
        dataclasses.replace(loaded, name="owner/model", revision=r) for r in ("a1", "a1", "b2")
    )
    assert identify(one) == identify(same)
    assert changed(identify(one), identify(other)) == ["weights"]


def test_a_buffer_that_no_checkpoint_stores_is_no_weight():
    loaded, other = tiny_loaded(), tiny_loaded()
    other.model.register_buffer("cache", torch.ones(3), persistent=False)
    assert identify(loaded) == identify(other)
    other.model.register_buffer("correction", torch.ones(3))
    assert changed(identify(loaded), identify(other)) == ["weights"]


def test_the_configuration_and_not_its_folder():
    loaded, other = tiny_loaded(), tiny_loaded()
    other.model.config._name_or_path = "/elsewhere"
    assert identify(loaded) == identify(other)
    other.model.config.rms_norm_eps = 1.0
    assert changed(identify(loaded), identify(other)) == ["configuration"]
    third = tiny_loaded()
    third.model.generation_config.repetition_penalty = 2.0
    assert changed(identify(loaded), identify(third)) == ["configuration"]


def test_the_tokenizer():
    tokenizer = tiny_loaded().tokenizer
    before = digest_tokenizer(tokenizer)
    tokenizer(["a", "abc"], padding=False, truncation=True, max_length=2)  # changes the state of the backend
    assert digest_tokenizer(tokenizer) == before
    other = copy.deepcopy(tokenizer)
    other.chat_template = "{{ messages }}"
    assert digest_tokenizer(other) != before
    third = copy.deepcopy(tokenizer)
    third.add_tokens(["<new>"])
    assert digest_tokenizer(third) != before
