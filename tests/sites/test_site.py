"""Sites: properties that hold for every tiny model, and models that are refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsing import find_sites
from sparsing.errors import UnsupportedModelError

from ..helpers.model_types import small_model
from ..helpers.tiny import N_LAYERS, SIZES, build

Call = tuple[str, torch.Tensor, torch.Tensor]


def leaf_calls(model: nn.Module, ids: torch.Tensor) -> list[Call]:
    """`(name, input, output)` of every leaf module in one forward pass, in the order of the calls."""
    calls: list[Call] = []
    handles = [  # clone: Falcon adds to the output of its block in place
        module.register_forward_hook(
            lambda _, args, output, name=name: calls.append((name, args[0].clone(), output.clone()))
        )
        for name, module in model.named_modules()
        if not list(module.children()) and not isinstance(module, nn.Dropout) and "rotary" not in name
    ]
    try:
        with torch.no_grad():
            model(ids)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def names_of(model: nn.Module) -> dict[nn.Module, str]:
    return {module: name for name, module in model.named_modules()}


@pytest.mark.parametrize("model_type", sorted(SIZES))
def test_one_site_per_layer_in_order(model_type, tiny_model):
    model = tiny_model(model_type)
    sites = find_sites(model)
    assert len(sites) == N_LAYERS == model.config.get_text_config().num_hidden_layers
    index = [int(next(part for part in site.name.split(".") if part.isdigit())) for site in sites]
    assert index == list(range(N_LAYERS))
    assert all(model.get_submodule(site.name) is not None for site in sites)


@pytest.mark.parametrize("model_type", sorted(SIZES))
def test_down_proj_is_called_once_and_is_h_times_the_weight(model_type, tiny_model, tiny_input):
    model = tiny_model(model_type)
    names, calls = names_of(model), leaf_calls(model, tiny_input())
    for site in find_sites(model):
        ((_, h, y),) = [call for call in calls if call[0] == names[site.down_proj]]
        assert h.shape[-1] == site.d_ff
        assert y.shape[-1] == site.d_model == 32
        bias = getattr(site.down_proj, "bias", None)
        expected = h @ site.weight.T + (0 if bias is None else bias)
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(site.column_norms(), site.weight.pow(2).sum(0).sqrt())


@pytest.mark.parametrize("model_type", sorted(SIZES))
def test_h_is_gate_times_up_or_the_activation_itself(model_type, tiny_model, tiny_input):
    model = tiny_model(model_type)
    names, calls = names_of(model), leaf_calls(model, tiny_input())
    order = [name for name, _, _ in calls]
    for site in find_sites(model):
        at = order.index(names[site.down_proj])
        h = calls[at][1]
        if site.gate_act is None:
            (_, _, up), (act_name, act_input, act) = calls[at - 2], calls[at - 1]
            assert "act" in act_name or "gelu" in act_name
            assert torch.equal(act_input, up)
            assert torch.equal(act, h)
        else:
            ((_, _, gate),) = [call for call in calls if call[0] == names[site.gate_act]]
            projections = dict(zip(order, calls, strict=True))
            fused = projections.get(f"{site.block}.gate_up_proj")
            up = fused[2].chunk(2, dim=-1)[1] if fused else projections[f"{site.block}.up_proj"][2]
            assert torch.equal(gate * up, h)


@pytest.mark.parametrize("model_type", sorted(SIZES))
def test_activation_modules_belong_to_one_block(model_type, tiny_model):
    sites = find_sites(tiny_model(model_type))
    acts = [site.gate_act for site in sites if site.gate_act is not None]
    assert len({id(act) for act in acts}) == len(acts)
    assert len(acts) in (0, len(sites))


@pytest.mark.parametrize("model_type", sorted(SIZES))
def test_finding_sites_changes_nothing(model_type, tiny_model, tiny_input):
    model, ids = tiny_model(model_type), tiny_input()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        logits = model(ids).logits
        find_sites(model)
        leaf_calls(model, ids)
        assert torch.equal(model(ids).logits, logits)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_model_without_feed_forward_blocks_shows_its_tree_and_the_file_to_change():
    with pytest.raises(UnsupportedModelError) as caught:
        find_sites(small_model("mamba"))
    message = str(caught.value)
    assert "'mamba'" in message
    assert "backbone.layers.0.mixer.out_proj: Linear weight" in message
    assert "src/sparsing/sites/matching.py" in message
    assert "CONTRIBUTING.md" in message


def test_quantized_weights_are_refused():
    model = build("llama")
    mlp = model.model.layers[1].mlp
    mlp.down_proj.weight = nn.Parameter(torch.zeros(32, 96, dtype=torch.int8), requires_grad=False)
    with pytest.raises(
        UnsupportedModelError, match=r"model.layers.1.mlp.down_proj.weight is torch.int8.*not quantized"
    ):
        find_sites(model)
