"""Names of sites and neurons, from the paths of the sites."""

from __future__ import annotations

from sparsing.measuring.site_names import site_names


def names(*sites: str) -> tuple[list[str], list[str]]:
    """Label of each site, and name of neuron 17 of each site."""
    found = site_names(sites, {})
    return [name.label for name in found], [name.neuron(17) for name in found]


def test_layers_keep_the_numbers_of_the_model():
    assert names("model.layers.1.mlp.down_proj", "model.layers.7.mlp.down_proj") == (
        ["1", "7"],
        ["1.17", "7.17"],
    )
    assert names("#0", "#1") == (["0", "1"], ["0.17", "1.17"])


def test_a_neuron_of_a_routed_expert_is_layer_expert_index():
    site = "model.layers.3.mlp.experts"
    (name,) = site_names([site], {site: 5})
    assert (name.label, name.neuron(0), name.neuron(17)) == ("3", "3.0.0", "3.3.2")


def test_blocks_of_one_layer_have_different_names():
    sites = ["model.layers.0.mlp.down_proj", "model.layers.3.mlp.experts"]
    sites.append("model.layers.3.mlp.shared_experts.down_proj")
    found = site_names(sites, {sites[1]: 5})
    assert [name.label for name in found] == ["0 mlp", "3 experts", "3 shared_experts"]
    assert [name.neuron(17) for name in found] == ["0.mlp.17", "3.3.2", "3.shared_experts.17"]


def test_linears_of_one_module_have_their_own_names():
    sites = [f"model.layers.0.{path}" for path in ("self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj")]
    labels, neurons = names(*sites)
    assert labels == ["0 self_attn.q_proj", "0 self_attn.k_proj", "0 mlp.down_proj"]
    assert neurons[0] == "0.self_attn.q_proj.17"


def test_blocks_with_the_same_last_name_have_longer_names():
    sites = [f"model.layers.0.{norm}.mlp.fc2" for norm in ("input_layernorm", "post_attention_layernorm")]
    labels, neurons = names(*sites)
    assert labels == ["0 input_layernorm.mlp", "0 post_attention_layernorm.mlp"]
    assert neurons == ["0.input_layernorm.mlp.17", "0.post_attention_layernorm.mlp.17"]
