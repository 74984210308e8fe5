"""muP: multipliers, initial standard deviations and learning rates against hand calculations."""

from __future__ import annotations

import math

import pytest
import torch

from sparsing import find_sites
from sparsing.errors import InputError
from sparsing.training.config import ModelTable, TrainingTable
from sparsing.training.mup import build_granite, make_granite_config, parameter_groups

SHAPE = {"d_model": 256, "n_layers": 4, "n_heads": 8, "n_kv_heads": 4, "vocab_size": 300, "context": 64}
TRAINING = TrainingTable(tokens=1000, lr=0.01)


def test_multipliers_of_mup():
    config = make_granite_config(ModelTable(**SHAPE, dim_model_base=64))
    assert config.embedding_multiplier == 12
    assert config.residual_multiplier == pytest.approx(1.4 / 2)
    assert config.logits_scaling == 4
    assert config.attention_multiplier == pytest.approx(32**-0.5)
    assert config.intermediate_size == 640
    assert config.tie_word_embeddings


def test_the_standard_parametrization_multiplies_nothing():
    config = make_granite_config(ModelTable(**SHAPE, dim_model_base=64, parametrization="standard"))
    assert (config.embedding_multiplier, config.residual_multiplier, config.logits_scaling) == (1, 1, 1)


@pytest.mark.parametrize(("parametrization", "scale"), [("mup", 0.5), ("standard", 1.0)])
def test_deviations_and_rates(parametrization, scale):
    shape = ModelTable(**SHAPE, dim_model_base=64, parametrization=parametrization)
    model = build_granite(shape, seed=0)
    weights = dict(model.named_parameters())
    hidden = weights["model.layers.0.mlp.down_proj.weight"]
    embedding = weights["model.embed_tokens.weight"]
    assert hidden.std().item() == pytest.approx(0.1 * scale, rel=0.02)
    assert embedding.std().item() == pytest.approx(0.1, rel=0.02)
    groups = parameter_groups(model.named_parameters(), shape.width_ratio, TRAINING)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert rates[id(hidden)] == pytest.approx(0.01 * scale**2)
    assert rates[id(embedding)] == rates[id(weights["model.norm.weight"])] == 0.01
    assert len(rates) == len(weights)
    undecayed = [p for group in groups if group.get("weight_decay") == 0 for p in group["params"]]
    assert {p.ndim for p in undecayed} == {1}
    assert len(undecayed) == sum(p.ndim == 1 for p in weights.values())


def test_the_seed_decides_the_weights_and_the_random_state_is_kept():
    shape = ModelTable(**SHAPE)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (
        build_granite(shape, seed=seed).model.layers[0].mlp.gate_proj.weight for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_initial_outputs_have_the_same_size_at_every_width():
    sizes = []
    for width in (64, 256):
        shape = ModelTable(
            d_model=width, n_layers=2, n_heads=width // 16, vocab_size=300, context=32, dim_model_base=64
        )
        ids = torch.randint(300, (8, 32), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            sizes.append(build_granite(shape, seed=0).model(ids).last_hidden_state.std().item())
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)
    assert not math.isnan(sizes[0])


def test_an_unknown_activation_function_is_refused():
    with pytest.raises(InputError, match=r"hidden_act must be one of .*relu.*, got 'rleu'"):
        make_granite_config(ModelTable(**SHAPE, hidden_act="rleu"))


def test_experts_are_routed_and_balanced_in_training_only():
    shape = ModelTable(**SHAPE, n_experts=4, top_k=2, router_loss=0.5)
    model = build_granite(shape, seed=0)
    assert sum(p.numel() for p in model.parameters()) == shape.num_parameters
    (site, *_) = find_sites(model)
    assert (site.kind, site.n_experts, site.top_k, site.d_ff) == ("expert", 4, 2, shape.d_ff)
    ids = torch.arange(2 * 16).view(2, 16)
    with torch.no_grad():
        plain = model.eval()(input_ids=ids, labels=ids)
        balanced = model.train()(input_ids=ids, labels=ids)
    assert plain.aux_loss is None
    assert float(balanced.loss) == pytest.approx(float(plain.loss + 0.5 * balanced.aux_loss), rel=1e-6)
    groups = parameter_groups(model.named_parameters(), shape.width_ratio, TRAINING)
    hidden = {id(p) for p in groups[1]["params"]}
    assert {id(p) for name, p in model.named_parameters() if "experts" in name} <= hidden


def test_a_token_cannot_be_routed_to_more_experts_than_there_are():
    with pytest.raises(InputError, match=r"model\.top_k = 2 is more than the 1 experts"):
        ModelTable(**SHAPE, n_experts=1)
