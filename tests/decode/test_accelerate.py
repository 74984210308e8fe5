"""An accelerated model computes what the masked model computes, reads fewer bytes, and is restored by `undo`."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from sparsing.decode._accelerate import accelerate
from sparsing.errors import InputError, UnsupportedModelError
from sparsing.models.loading import load_model
from sparsing.rules.mask import sparsify
from sparsing.rules.thresholds import Thresholds
from sparsing.sites.discovery import find_sites

from ..helpers.decode_models import decoded_logits, demo, generate_greedily, subjects, tiny
from ..helpers.tiny import N_LAYERS, build, tiny_input
from ..helpers.tiny_experts import N_EXPERTS, TOP_K, build_experts

pytest.importorskip("numba", reason="the CPU kernels need numba: pip install 'sparsing[cpu]'")


def model_state(model):
    """The values and strides of every parameter, and the names of modules whose instance has its own forward."""
    parameters = {name: (p.clone(), p.stride(), p.requires_grad) for name, p in model.named_parameters()}
    return parameters, [name for name, module in model.named_modules() if "forward" in vars(module)]


def assert_as_before(model, before):
    parameters, own = before
    assert own == [name for name, module in model.named_modules() if "forward" in vars(module)]
    for name, p in model.named_parameters():
        values, strides, grad = parameters[name]
        assert torch.equal(p, values), name
        assert (p.stride(), p.requires_grad) == (strides, grad), name
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_text_and_logits_equal_the_masked_model(activation):
    loaded, corpus, thresholds = demo(activation)
    ids = next(corpus.batches(2)).ids[:, :48]
    with sparsify(loaded.model, thresholds) as masked:
        text, logits = generate_greedily(masked, ids[:1, :12]), decoded_logits(masked, ids, 12)
    with accelerate(loaded.model, thresholds, measure=False) as fast:
        assert torch.equal(generate_greedily(fast.model, ids[:1, :12]), text)
        assert fast.stats().activation_ratio < 0.6
        torch.testing.assert_close(decoded_logits(fast.model, ids, 12), logits, rtol=1e-4, atol=2e-3)
    dense = generate_greedily(loaded.model, ids[:1, :12])
    assert not torch.equal(dense, text) or activation == "silu"  # the rule does change the text


def test_stories260k(shared):
    loaded = load_model(shared / "models" / "stories260K", dtype="float32", device="cpu")
    text = (shared / "text" / "tinystories_maxme1.txt").read_text(encoding="utf-8")
    loaded, corpus, thresholds = subjects(loaded, text, 0.2)
    ids = next(corpus.batches(1)).ids[:, :40]
    with sparsify(loaded.model, thresholds) as masked:
        expected, logits = generate_greedily(masked, ids[:, :8], 40), decoded_logits(masked, ids, 8)
    with accelerate(loaded.model, thresholds, measure=False) as fast:
        assert torch.equal(generate_greedily(fast.model, ids[:, :8], 40), expected)
        torch.testing.assert_close(decoded_logits(fast.model, ids, 8), logits, rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize("batch", [1, 3, 8, 9])
def test_every_batch_size_decodes_like_the_masked_model(batch):
    """Nine rows are more than a kernel takes, so they go through the model's own code."""
    loaded, corpus, thresholds = tiny()
    ids = next(corpus.batches(batch)).ids[:, :16]
    with sparsify(loaded.model, thresholds) as masked:
        expected = decoded_logits(masked, ids, 10)
    with accelerate(loaded.model, thresholds, measure=False) as fast:
        torch.testing.assert_close(decoded_logits(fast.model, ids, 10), expected, rtol=1e-4, atol=1e-4)
        assert fast.stats().num_tokens == (
            0 if batch == 9 else 5 * batch
        )  # the prompt's forward gives the first token


def test_bfloat16_model():
    loaded, corpus, thresholds = tiny()
    model = build("llama").to(torch.bfloat16)
    model.load_state_dict(loaded.model.state_dict())
    ids = next(corpus.batches(2)).ids[:, :24]
    with sparsify(model, thresholds) as masked:
        expected = decoded_logits(masked, ids, 12).float()
    with accelerate(model, thresholds, measure=False) as fast:
        assert fast.overhead_bytes == 0
        got = decoded_logits(fast.model, ids, 12).float()
    assert (got - expected).norm() / expected.norm() < 0.05


@pytest.mark.parametrize(("dtype", "error"), [("bfloat16", 0.05), ("int8", 0.05)])
def test_weights_of_another_dtype_are_a_second_copy_with_a_small_error(dtype, error):
    loaded, corpus, thresholds = demo("relu")
    ids = next(corpus.batches(1)).ids[:, :24]
    with sparsify(loaded.model, thresholds) as masked:
        expected = decoded_logits(masked, ids, 12)
    with accelerate(loaded.model, thresholds, dtype=dtype, measure=False, linears=False) as fast:
        got = decoded_logits(fast.model, ids, 12)
        size = {"bfloat16": 2, "int8": 1}[dtype]
        neurons = sum(3 * site.weight.numel() for site in loaded.sites)
        assert size * neurons <= fast.overhead_bytes <= 1.05 * size * neurons
    assert 0 < (got - expected).norm() / expected.norm() < error


def test_undo_restores_every_bit_also_after_an_exception():
    model = build("llama")
    before = model_state(model)
    thresholds = Thresholds(rule="cett", level=0.1, on="neuron_norm", values=(0.5,) * N_LAYERS)
    fast = accelerate(model, thresholds)
    assert model_state(model)[1]
    fast.undo()
    assert_as_before(model, before)
    fast.undo()
    with pytest.raises(RuntimeError, match="stop"), accelerate(model, thresholds, measure=False):
        raise RuntimeError("stop")
    assert_as_before(model, before)


def test_a_failed_call_does_not_change_the_model():
    model = build("llama")
    before = model_state(model)
    good = Thresholds(rule="cett", level=0.1, on="neuron_norm", values=(0.5,) * N_LAYERS)
    wrong = [
        (dataclasses.replace(good, values=(0.5,)), {}, "thresholds for a model of 2"),
        (dataclasses.replace(good, rule="top_k", on="gate", select="top_k"), {}, "threshold rule"),
        (None, {}, "sparse needs thresholds"),
        (good, {"mode": "quick"}, "mode must be"),
        (good, {"dtype": "int4"}, "unknown dtype 'int4'"),
        (good, {"predictor": [None]}, "1 layer predictors"),
    ]
    for thresholds, options, message in wrong:
        with pytest.raises(InputError, match=message):
            accelerate(model, thresholds, **options)
        assert_as_before(model, before)


def test_weights_are_in_memory_once():
    loaded, _, thresholds = demo("silu")
    with accelerate(loaded.model, thresholds, measure=False) as fast:
        assert fast.overhead_bytes == 0
        for site in loaded.sites:
            packed = fast.blocks[site.block].packed
            assert site.down_proj.weight.data_ptr() == packed.down.data_ptr()
            assert site.projections[0].weight.data_ptr() == packed.gate.data_ptr()


def test_bytes_are_counted_by_the_rows_read():
    loaded, corpus, thresholds = demo("silu")
    ids = next(corpus.batches(1)).ids[:, :20]
    with accelerate(loaded.model, thresholds, measure=False) as fast:
        fast.reset_stats()
        decoded_logits(fast.model, ids, 12)
        stats = fast.stats()
        assert (stats.steps, stats.num_tokens) == (7, 7)
        rows = [
            r for layer in stats.layers for r in (layer.gate_ratio, layer.up_ratio, layer.activation_ratio)
        ]
        site = loaded.sites[0]
        assert stats.ffn_bytes_per_step == pytest.approx(sum(rows) * site.d_ff * site.d_model * 4)
        assert stats.bytes_per_step < stats.dense_bytes_per_step
        fast.mode = "dense"
        fast.reset_stats()
        decoded_logits(fast.model, ids, 12)
        dense = fast.stats()
        assert dense.bytes_per_step == pytest.approx(dense.dense_bytes_per_step, rel=1e-3)


def test_the_active_share_does_not_depend_on_the_way():
    loaded, corpus, thresholds = demo("relu")
    ids = next(corpus.batches(1)).ids[:, :20]
    with accelerate(loaded.model, thresholds, measure=False) as fast:
        shares = []
        for way in ("exact", "torch"):
            for block in fast.blocks.values():
                block.choice = {1: way}
            fast.reset_stats()
            logits = decoded_logits(fast.model, ids, 12)
            shares.append((fast.stats().activation_ratio, logits))
    assert shares[0][0] == pytest.approx(shares[1][0], abs=2e-3)
    torch.testing.assert_close(shares[0][1], shares[1][1], rtol=1e-4, atol=2e-3)


def test_dense_and_torch_modes_equal_the_dense_model():
    loaded, corpus, thresholds = tiny()
    ids = next(corpus.batches(1)).ids[:, :24]
    expected = decoded_logits(loaded.model, ids, 12)
    with accelerate(loaded.model, None, mode="dense", measure=False) as fast:
        torch.testing.assert_close(decoded_logits(fast.model, ids, 12), expected, rtol=1e-4, atol=1e-4)
        with pytest.raises(InputError, match="needs thresholds"):
            fast.mode = "sparse"
    with accelerate(loaded.model, thresholds, measure=False) as fast:
        fast.mode = "torch"
        assert torch.equal(decoded_logits(fast.model, ids, 12).argmax(-1), expected.argmax(-1))
        fast.mode = "sparse"
        assert not torch.allclose(decoded_logits(fast.model, ids, 12), expected, rtol=1e-3)


def test_dense_prefill_leaves_the_rule_out_of_prompts():
    loaded, corpus, thresholds = tiny()
    ids = next(corpus.batches(1)).ids[:, :24]
    with torch.no_grad():
        dense = loaded.model(input_ids=ids).logits
        with accelerate(loaded.model, thresholds, measure=False, prefill="dense") as fast:
            torch.testing.assert_close(fast.model(input_ids=ids).logits, dense, rtol=1e-4, atol=1e-4)
        with accelerate(loaded.model, thresholds, measure=False) as fast:
            assert not torch.allclose(fast.model(input_ids=ids).logits, dense, rtol=1e-3)


def test_inputs_with_gradients_go_through_the_models_own_code():
    loaded, corpus, thresholds = tiny()
    ids = next(corpus.batches(1)).ids[:, :4]
    embedded = loaded.model.get_input_embeddings()(ids).detach().requires_grad_()
    with accelerate(loaded.model, thresholds, measure=False) as fast:
        fast.model(inputs_embeds=embedded).logits.sum().backward()
    assert embedded.grad is not None
    assert embedded.grad.abs().sum() > 0


@pytest.mark.parametrize("model_type", ["phi3", "gemma", "granite", "qwen3", "falcon_h1"])
def test_every_family_of_gated_blocks_is_accelerated(model_type):
    model = build(model_type)
    thresholds = Thresholds(rule="cett", level=0.1, on="neuron_norm", values=(0.6,) * N_LAYERS)
    ids = tiny_input(1, 20)
    before = model_state(model)
    with sparsify(model, thresholds) as masked:
        expected = decoded_logits(masked, ids, 10)
    with accelerate(model, thresholds, measure=False) as fast:
        assert len(fast.blocks) == len(find_sites(model))
        torch.testing.assert_close(decoded_logits(fast.model, ids, 10), expected, rtol=1e-3, atol=1e-3)
    assert_as_before(model, before)


def test_a_block_that_computes_more_keeps_its_own_forward():
    model = build("falcon_h1")
    first, ids = find_sites(model)[0].block, tiny_input(1, 20)
    thresholds = Thresholds(rule="cett", level=0.1, on="neuron_norm", values=(0.6,) * N_LAYERS)
    model.get_submodule(first).down_multiplier = 0.5
    with sparsify(model, thresholds) as masked:
        expected = decoded_logits(masked, ids, 10)
    with pytest.warns(UserWarning, match=f"{first}: .* computes more than"):
        fast = accelerate(model, thresholds, measure=False)
    with fast:
        assert list(fast.blocks) == [find_sites(model)[1].block]
        torch.testing.assert_close(decoded_logits(fast.model, ids, 10), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore:.*keeps its own forward")
def test_a_model_without_gates_is_rejected():
    model = build("opt")
    before = model_state(model)
    with pytest.raises(UnsupportedModelError, match="gated"):
        accelerate(model, Thresholds(rule="fat", level=0.1, on="h", values=(0.1,) * N_LAYERS))
    assert_as_before(model, before)


@pytest.mark.parametrize("per_expert", [False, True])
def test_shared_experts_go_through_kernels_and_routed_experts_are_masked(per_expert):
    """Of GLM-4 MoE, layer 0 is dense and layer 1 has routed experts and a shared expert."""
    model = build_experts("glm4_moe", dtype=torch.float32)
    sites, values = find_sites(model), {}
    for place, site in enumerate(sites):
        names = [f"{site.name}.{i}" for i in range(site.n_experts)] if per_expert else [site.name]
        names = names if site.kind == "expert" else [site.name]
        values |= {name: 0.01 * (1 + place + i) for i, name in enumerate(names)}
    thresholds = Thresholds(rule="cett", level=0.1, on="neuron_norm", values=values)
    before, ids = model_state(model), tiny_input(2, 16)
    with sparsify(model, thresholds) as masked:
        expected = decoded_logits(masked, ids, 10)
    with pytest.warns(UserWarning, match="not for routed experts"):
        fast = accelerate(model, thresholds, measure=False)
    with fast:
        assert list(fast.blocks) == ["model.layers.0.mlp", "model.layers.1.mlp.shared_experts"]
        torch.testing.assert_close(decoded_logits(fast.model, ids, 10), expected, rtol=1e-4, atol=1e-4)
        stats = fast.stats()
        assert 0 < stats.activation_ratio < 1
        experts = next(site.down_proj for site in sites if site.kind == "expert")
        unread = sum(p.numel() for p in experts.parameters()) * (1 - TOP_K / N_EXPERTS)
        everything = sum(p.numel() for p in model.parameters()) - model.model.embed_tokens.weight.numel()
        assert stats.dense_bytes_per_step == pytest.approx(4 * (everything - unread))
    assert_as_before(model, before)


def test_a_model_of_routed_experts_alone_has_no_kernel():
    model = build_experts("mixtral", dtype=torch.float32)
    thresholds = Thresholds(rule="cett", level=0.1, on="neuron_norm", values=(0.01, 0.01))
    before = model_state(model)
    with (
        pytest.warns(UserWarning, match="not for routed experts"),
        pytest.raises(UnsupportedModelError, match=r"not for routed experts; use sparsify\(\) to mask"),
    ):
        accelerate(model, thresholds, measure=False)
    assert_as_before(model, before)
