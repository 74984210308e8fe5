"""Discovery by structure: planted blocks that are proved or refused, and the traces that a search must not leave."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sparsing import find_sites
from sparsing.errors import UnsupportedModelError
from sparsing.rules.mask import sparsify
from sparsing.rules.thresholds import Thresholds
from sparsing.sites.discovery import check_structure, discover
from sparsing.sites.tap import tapped

from ..helpers.model_types import small_input, small_model
from ..helpers.tiny import build, tiny_input


class Block(nn.Module):
    """The block of Llama; subclasses change its `forward`."""

    def __init__(self, mlp: nn.Module):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = mlp.gate_proj, mlp.up_proj, mlp.down_proj
        self.act_fn = nn.SiLU()
        self.other = nn.Linear(96, 32)
        self.norm = nn.LayerNorm(32)

    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class Scaled(Block):
    def forward(self, x):
        return 0.5 * super().forward(x)


class Clipped(Block):
    def forward(self, x):
        return super().forward(x).clamp(-0.2, 0.2)


class Normalized(Block):
    def forward(self, x):
        return self.norm(super().forward(x))


class SecondMatrix(Block):
    def forward(self, x):
        h = self.act_fn(self.gate_proj(x)) * self.up_proj(x)
        return self.down_proj(h) + self.other(h)


class LeakingGate(Block):
    def forward(self, x):
        gate = self.act_fn(self.gate_proj(x))
        return self.down_proj(gate * self.up_proj(x)) + 0.01 * gate.sum(-1, keepdim=True)


class Twice(Block):
    def forward(self, x):
        return super().forward(x) + super().forward(-x)


class ClampedGate(Block):
    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_proj(x).clamp(max=1.5)) * self.up_proj(x))


class Inline(Block):
    def forward(self, x):
        return self.down_proj(F.gelu(self.gate_proj(x)) * self.up_proj(x))


class UpFirst(Block):
    """One matrix computes `up` and then the gate, and the activation is a function."""

    def __init__(self, mlp):
        super().__init__(mlp)
        self.both = nn.Linear(32, 192)

    def forward(self, x):
        up, gate = self.both(x).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate) * up)


class LooksBack(Block):
    """Each token's neurons also contain those of the token before: no feed-forward block."""

    def forward(self, x):
        h = self.act_fn(self.gate_proj(x)) * self.up_proj(x)
        return self.down_proj(h + h.roll(1, dims=1))


def planted(kind: type[Block]):
    torch.manual_seed(0)
    model = build("llama")
    for layer in model.model.layers:
        layer.mlp = kind(layer.mlp)
    return model.eval()


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Clipped, "not a linear function of the output of down_proj"),
        (Normalized, "not a linear function of the output of down_proj"),
        (SecondMatrix, "a second matrix reads its neurons"),
        (LeakingGate, "a second path reads the neurons"),
        (Twice, "it runs 2 times per token"),
        (LooksBack, "No feed-forward block was found"),
    ],
)
def test_a_block_that_does_more_with_its_neurons_is_refused(kind, why):
    with pytest.raises(UnsupportedModelError, match=why):
        find_sites(planted(kind))


def test_one_such_block_is_enough():
    model = build("llama")
    model.model.layers[1].mlp = Clipped(model.model.layers[1].mlp)
    with pytest.raises(UnsupportedModelError, match=r"^model.layers.1.mlp has the form"):
        find_sites(model)


class ClippedByLayer(Block):
    limit = 1e9

    def forward(self, x):
        return super().forward(x).clamp(-self.limit, self.limit)


def test_blocks_of_one_class_with_other_settings_are_proved_apart():
    model = planted(ClippedByLayer)
    assert len(find_sites(model)) == 2
    model = planted(ClippedByLayer)
    model.model.layers[1].mlp.limit = 0.2
    with pytest.raises(UnsupportedModelError, match=r"^model.layers.1.mlp has the form"):
        find_sites(model)


@pytest.mark.parametrize("kind", [Scaled, ClampedGate])
def test_a_block_that_scales_or_clamps_is_proved_but_has_no_kernel(kind):
    plain, changed = find_sites(planted(Block)), find_sites(planted(kind))
    assert [site.name for site in changed] == [site.name for site in plain]
    assert all(len(site.projections) == 2 for site in plain)
    assert all(site.projections == () and site.gate_act is not None for site in changed)


@pytest.mark.parametrize("kind", [Inline, UpFirst])
def test_the_gate_of_an_activation_without_a_module_is_tapped(kind):
    model, ids = planted(kind), tiny_input()
    sites = find_sites(model)
    seen = {}
    with torch.no_grad(), tapped(sites, lambda i, rows: seen.update({i: rows}), gate=True):
        model(ids)
    mlp, kept = model.model.layers[0].mlp, {}
    mlp.register_forward_pre_hook(lambda _, args: kept.update(x=args[0]))
    with torch.no_grad():
        model(ids)
        if kind is Inline:
            gate, up = F.gelu(mlp.gate_proj(kept["x"])), mlp.up_proj(kept["x"])
        else:
            up, gate = mlp.both(kept["x"]).chunk(2, dim=-1)
            gate = F.silu(gate)
    assert torch.equal(seen[0].gate, gate.reshape(-1, 96))
    torch.testing.assert_close(seen[0].h, (gate * up).reshape(-1, 96))
    assert all(len(site.projections) == (2 if kind is Inline else 0) for site in sites)


def test_one_activation_module_for_all_layers_is_tapped_at_the_projections():
    model, ids = build("llama"), tiny_input()
    wanted = [site.name for site in find_sites(model)]
    for layer in model.model.layers:
        layer.mlp.act_fn = model.model.layers[0].mlp.act_fn
    sites, gates = find_sites(model), {}
    assert [site.name for site in sites] == wanted
    with torch.no_grad(), tapped(sites, lambda i, rows: gates.update({i: rows.gate}), gate=True):
        model(ids)
    assert not torch.equal(gates[0], gates[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("model_type", ["llama", "gpt2", "opt", "phi3", "lfm2"])
def test_sites_do_not_depend_on_the_dtype(model_type, dtype):
    model = small_model(model_type)
    wanted = [(site.name, len(site.projections), type(site.gate_act)) for site in find_sites(model)]
    model = model.to(dtype)
    got = discover(small_model(model_type).to(dtype)).sites
    assert [(site.name, len(site.projections), type(site.gate_act)) for site in got] == wanted


def test_a_search_leaves_no_trace():
    model = build("llama").train()
    model.model.layers[0].eval()
    seen = []

    def own(*_):
        seen.append(1)

    model.model.layers[0].register_forward_hook(own)
    flags = [module.training for module in model.modules()]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    find_sites(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == flags
    assert [hook for m in model.modules() for hook in m._forward_hooks.values()] == [own]
    assert not any(m._forward_pre_hooks or m._forward_pre_hooks_with_kwargs for m in model.modules())
    assert not seen
    assert all(parameter.grad is None for parameter in model.parameters())


def test_no_hook_is_left_if_the_model_fails():
    model = build("llama")
    model.model.layers[1].mlp.act_fn.forward = None
    with pytest.raises(UnsupportedModelError, match="cannot run on 12 token ids alone"):
        find_sites(model)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_model_is_searched_once_until_a_module_changes(monkeypatch):
    model = build("llama")
    first = find_sites(model)
    calls, forward = [], model.forward
    monkeypatch.setattr(
        model, "forward", lambda ids, **options: (calls.append(1), forward(ids, **options))[1]
    )
    assert find_sites(model) is first
    with sparsify(model, Thresholds(rule="cett", level=0.1, on="h", values=(0.1, 0.1))):
        assert find_sites(model) is first
    assert not calls
    model.model.layers[0].mlp.act_fn = nn.ReLU()
    assert isinstance(find_sites(model)[0].gate_act, nn.ReLU)
    assert len(calls) == 2


def test_layers_without_a_block_are_named_and_layers_keep_their_numbers(caplog):
    kinds = ("linear_attention", "mlp", "full_attention", "mlp")
    model = small_model("nemotron_h", layers_block_type=list(kinds))
    with caplog.at_level(logging.INFO):
        found = discover(model)
    assert [site.layer for site in found.sites] == [1, 3]
    assert found.layers_without_site == ("model.layers.0", "model.layers.2")
    assert "2 x model.layers.*.mixer.down_proj: h = " in caplog.text


def test_weights_that_are_not_in_memory_are_named():
    with torch.device("meta"):
        model = type(build("llama"))(build("llama").config)
    check_structure(model)
    with pytest.raises(UnsupportedModelError, match=r"q_proj.weight is on the meta device.*more memory"):
        find_sites(model)


COMPOSITE = ("fuyu", "gemma3", "gemma4", "llama4", "mistral3", "qwen2_5_vl", "qwen3_5", "qwen3_vl_moe")


@pytest.mark.parametrize("model_type", COMPOSITE)
def test_the_text_part_of_a_composite_model_is_found(model_type):
    model, ids = small_model(model_type), small_input(1, 12)
    sites = find_sites(model)
    assert sorted({site.layer for site in sites}) == list(range(4))
    assert all(site.name.startswith(("model.language_model.", "model.layers.")) for site in sites)
    with torch.no_grad():
        dense = model(ids).logits
        with sparsify(model, Thresholds(rule="cett", level=0.1, on="h", values=(0.05,) * len(sites))):
            assert not torch.equal(model(ids).logits, dense)
        assert torch.equal(model(ids).logits, dense)
