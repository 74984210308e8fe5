"""Masks: threshold 0 equals the dense model bit for bit, other thresholds mask exactly, and the model is restored."""

from __future__ import annotations

import pytest
import torch

from sparsing.errors import InputError, UnsupportedModelError
from sparsing.rules import make_rule
from sparsing.rules.mask import Mask, apply, load_sparse, sparsify
from sparsing.rules.thresholds import Thresholds, thresholds_at
from sparsing.sites.discovery import find_sites
from sparsing.sites.tap import Rows, tapped

from ..helpers.measuring import score_of, tiny_loaded
from ..helpers.tiny import SIZES
from ..helpers.tiny_experts import SIZES as EXPERTS
from ..helpers.tiny_experts import build_experts

TYPES = sorted(SIZES)
GATED = ("llama", "phi3", "glm4", "gemma2")
SHAPES = (*GATED, "opt", "gpt2", "falcon", "bloom")


def cuts(*values: float, on: str = "neuron_norm") -> Thresholds:
    return Thresholds(rule="cett", level=0.0, on=on, values=values)


def logits(model, ids) -> torch.Tensor:
    with torch.no_grad():
        return model(ids, use_cache=False).logits


def state(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def hooks(model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("on", ["neuron_norm", "gate", "h"])
@pytest.mark.parametrize("model_type", TYPES)
def test_threshold_zero_is_dense_bit_for_bit(model_type, on, tiny_model, tiny_input):
    model, ids = tiny_model(model_type), tiny_input()
    dense = logits(model, ids)
    with sparsify(model, cuts(0.0, 0.0, on=on)):
        assert torch.equal(logits(model, ids), dense)


@pytest.mark.parametrize("model_type", TYPES)
def test_the_model_is_as_before_also_after_an_exception(model_type, tiny_model, tiny_input):
    model, ids = tiny_model(model_type), tiny_input()
    dense, before, hooked = logits(model, ids), state(model), hooks(model)
    with sparsify(model, cuts(0.05, 0.05)) as sparse:
        assert sparse is model
        assert not torch.equal(logits(model, ids), dense)
    with pytest.raises(IndexError), sparsify(model, cuts(0.05, 0.05)):
        model(torch.full((1, 3), 10**6))
    assert hooks(model) == hooked
    assert torch.equal(logits(model, ids), dense)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("on", ["neuron_norm", "gate", "h"])
@pytest.mark.parametrize("model_type", TYPES)
def test_what_enters_down_proj_is_h_without_the_inactive(model_type, on, tiny_model, tiny_input):
    loaded, ids = tiny_loaded(model_type), tiny_input()
    model, sites = loaded.model, loaded.sites
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    entered: list[torch.Tensor] = []
    with tapped(sites[:1], lambda index, rows: seen.append((rows.gate.clone(), rows.h.clone())), gate=True):
        logits(model, ids)
    (gate, h), threshold = seen[0], 0.04
    with sparsify(model, cuts(threshold, 0.0, on=on)):
        handle = sites[0].down_proj.register_forward_hook(lambda m, args, y: entered.append(args[0].clone()))
        logits(model, ids)
        handle.remove()
    size = score_of(loaded, 0, on, gate, h)
    clear = (size - threshold).abs() > 1e-6
    wanted = torch.where(size > threshold, h, 0.0)
    assert torch.equal(entered[0].view_as(wanted)[clear], wanted[clear])
    assert 0 < (size > threshold).double().mean() < 1


@pytest.mark.parametrize("model_type", SHAPES)
def test_all_dropped_leaves_only_the_bias(model_type, tiny_model, tiny_input):
    model = tiny_model(model_type)
    outputs: list[torch.Tensor] = []
    with (
        sparsify(model, cuts(1e30, 1e30)),
        tapped(
            find_sites(model), lambda *_: None, gate=False, see_output=lambda _, y: outputs.append(y.clone())
        ),
    ):
        logits(model, tiny_input())
    for site, y in zip(find_sites(model), outputs, strict=True):
        bias = site.down_proj.bias
        assert torch.equal(y, torch.zeros_like(y) if bias is None else bias.expand_as(y))


@pytest.mark.parametrize("model_type", SHAPES)
@pytest.mark.parametrize("rule", ["top_k", "fat"])
def test_generate_works_and_steps_as_the_whole_sequence(model_type, rule, tiny_model, tiny_input):
    model, ids = tiny_model(model_type), tiny_input(1, 6)
    thresholds = thresholds_at(make_rule(rule), 0.05 if rule == "fat" else 0.3, sites=("#0", "#1"))
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with torch.no_grad(), sparsify(model, thresholds) as sparse:
        text = sparse.generate(ids, attention_mask=torch.ones_like(ids), **options)
        scores = logits(sparse, text[:, :-1])
    assert text.shape == (1, 12)
    picked = scores[0, 5:].gather(-1, text[0, 6:, None])[:, 0]
    torch.testing.assert_close(picked, scores[0, 5:].amax(-1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model_type", ["llama", "opt"])
def test_top_k_over_a_sequence_and_per_token_in_a_running_model(model_type, tiny_model, tiny_input):
    model = tiny_model(model_type)
    d_ff = find_sites(model)[0].d_ff
    for scope in ("token", "sequence"):
        thresholds = thresholds_at(make_rule("top_k", scope=scope), 0.25, sites=("#0", "#1"))
        kept: list[torch.Tensor] = []
        with (
            sparsify(model, thresholds),
            tapped(find_sites(model), lambda _, rows, kept=kept: kept.append(rows.h != 0), gate=False),
        ):
            logits(model, tiny_input())
        for active in kept:
            active = active.view(2, 16, d_ff)  # some blocks flatten windows and tokens
            if scope == "token":
                assert (active.sum(-1) <= d_ff // 4).all()
                assert active.sum(-1).max() == d_ff // 4 or model_type == "opt"
            else:
                assert active.sum() <= 2 * 16 * d_ff - 2 * int(0.75 * 16 * d_ff)


def test_a_wrong_number_of_layers_changes_nothing(tiny_model):
    model = tiny_model("llama")
    with (
        pytest.raises(InputError, match="3 thresholds for a model of 2"),
        sparsify(model, cuts(0.1, 0.1, 0.1)),
    ):
        pass
    assert hooks(model) == 0
    with (
        pytest.raises(UnsupportedModelError, match="No feed-forward block"),
        sparsify(torch.nn.Linear(2, 2), cuts(0.1)),
    ):
        pass


def test_for_keeps_until_the_handles_are_removed(tiny_model, tiny_input, tiny_checkpoint):
    model, ids = tiny_model("llama"), tiny_input()
    dense = logits(model, ids)
    with sparsify(model, cuts(0.05, 0.02)):
        sparse = logits(model, ids)
    handles = apply(model, cuts(0.05, 0.02))
    assert torch.equal(logits(model, ids), sparse)
    for handle in handles:
        handle.remove()
    assert torch.equal(logits(model, ids), dense)
    assert torch.equal(logits(load_sparse(str(tiny_checkpoint), cuts(0.05, 0.02)).model, ids), sparse)


def test_half_floats_keep_their_dtype(tiny_input):
    from ..helpers.tiny import build

    model = build("llama").to(torch.bfloat16)
    for on in ("neuron_norm", "gate"):
        with sparsify(model, cuts(0.05, 0.05, on=on)):
            assert logits(model, tiny_input()).dtype == torch.bfloat16


def test_a_mask_counts_rows_of_flattened_blocks_as_windows():
    loaded = tiny_loaded("opt")
    thresholds = thresholds_at(make_rule("top_k", scope="sequence"), 0.5, sites=("#0", "#1"))
    mask = Mask(loaded.sites, thresholds)
    h = torch.randn(2, 4, 96, generator=torch.Generator().manual_seed(0))
    rows = h.view(8, 96)
    whole = mask.active(0, Rows(rows, rows, (2, 4)))
    mask.real = torch.ones(2, 4, dtype=torch.bool)
    flat = mask.active(0, Rows(rows, rows, (8,)))
    assert torch.equal(flat, whole)
    mask.real[1, 2:] = False
    assert not torch.equal(mask.active(0, Rows(rows, rows, (8,))), whole)


def expert_cuts(model, *, per_expert: bool) -> Thresholds:
    """About half of the neurons of each site; the experts of a layer have one threshold or several."""
    values = {}
    for site in find_sites(model):
        names = [f"{site.name}.{i}" for i in range(site.n_experts)]
        split = per_expert and site.kind == "expert"
        values |= {name: 0.01 * (1 + i) for i, name in enumerate(names)} if split else {site.name: 0.02}
    return Thresholds(rule="cett", level=0.1, on="neuron_norm", values=values)


@pytest.mark.parametrize("per_expert", [False, True])
@pytest.mark.parametrize("model_type", sorted(EXPERTS))
def test_generate_with_experts_steps_as_the_whole_sequence(model_type, per_expert, tiny_input):
    model, ids = build_experts(model_type), tiny_input(1, 6)
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with torch.no_grad(), sparsify(model, expert_cuts(model, per_expert=per_expert)) as sparse:
        text = sparse.generate(ids, attention_mask=torch.ones_like(ids), **options)
        scores = logits(sparse, text[:, :-1])
    assert text.shape == (1, 12)
    picked = scores[0, 5:].gather(-1, text[0, 6:, None])[:, 0]
    torch.testing.assert_close(picked, scores[0, 5:].amax(-1), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert not torch.allclose(scores, logits(model, text[:, :-1]), rtol=1e-3), "no neuron was dropped"
