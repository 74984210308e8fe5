"""The hooks: the rows they pass on, the values they replace, and their removal."""

from __future__ import annotations

import pytest
import torch

from sparsing.sites.discovery import find_sites
from sparsing.sites.tap import tapped


@pytest.mark.parametrize("model_type", ["llama", "phi3", "opt", "gpt2", "biogpt"])
def test_layers_come_in_order_with_gate_h_and_output(model_type, tiny_model, tiny_input):
    model = tiny_model(model_type)
    sites = find_sites(model)
    seen, outputs = [], []
    with (
        torch.no_grad(),
        tapped(
            sites,
            lambda index, rows: seen.append((index, rows.gate.clone(), rows.h.clone())),
            gate=True,
            see_output=lambda index, y: outputs.append((index, y.clone())),
        ),
    ):
        model(tiny_input())
    assert [layer for layer, *_ in seen] == [layer for layer, _ in outputs] == [0, 1]
    for (layer, gate, h), (_, y) in zip(seen, outputs, strict=True):
        assert gate.shape == h.shape
        assert torch.equal(gate, h) == (sites[layer].gate_act is None)
        torch.testing.assert_close(y, sites[layer].down_proj(h))


def test_without_gate_the_activation_is_not_hooked(tiny_model, tiny_input):
    model = tiny_model("llama")
    with torch.no_grad(), tapped(find_sites(model), lambda index, rows: None, gate=False):
        assert not any(site.gate_act._forward_hooks for site in find_sites(model))
        model(tiny_input())


def test_what_is_returned_replaces_h(tiny_model, tiny_input):
    model = tiny_model("llama")
    outputs = []
    with (
        torch.no_grad(),
        tapped(
            find_sites(model),
            lambda _, rows: rows.h * 0,
            gate=False,
            see_output=lambda _, y: outputs.append(y),
        ),
    ):
        model(tiny_input())
    assert all(not y.any() for y in outputs)


def test_hooks_go_after_an_exception(tiny_model, tiny_input):
    model = tiny_model("llama")

    def fail(index, rows):
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"), tapped(find_sites(model), fail, gate=True):
        model(tiny_input())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
