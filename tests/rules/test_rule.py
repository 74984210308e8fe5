"""Properties of every rule: bounds, strength as the inverse of level, and a ratio that never rises with strength."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparsing.errors import InputError
from sparsing.measuring.calibration import calibrate
from sparsing.rules import RULES, Rule, make_rule, register_rule
from sparsing.rules.coverage import covering
from sparsing.rules.mask import Mask, sparsify
from sparsing.rules.rule import Reach
from sparsing.rules.scores import SCORES
from sparsing.rules.thresholds import Thresholds, thresholds_at
from sparsing.sites.tap import Rows, tapped

from ..helpers.measuring import text_corpus, tiny_loaded

CELLS = [
    *sorted(RULES),
    *("cett:gate", "cett:h", "cett:x", "cett:neuron_norm+x", "cats:neuron_norm", "quantile:up", "quantile:x"),
    *(
        "fat:neuron_norm",
        "scap:x_centred",
        "teal:x_norm",
        "teal:neuron_norm+x_norm",
        "top_k:up",
        "top_p:x_norm",
    ),
    *("top_k:pre_gate", "gaussian_top_k:up", "griffin:x"),
]
"""Rules with several scores each, among them scores of linear inputs and of joint rules."""
NEED_A_GATE = ("up", "pre_gate")


@pytest.fixture(scope="module", params=["llama", "opt"])
def known(request):
    """A model and its curves of every score that is defined on it."""
    loaded, corpus = tiny_loaded(request.param), text_corpus(200)
    names = sorted(name for name in SCORES if request.param == "llama" or name not in NEED_A_GATE)
    return loaded, calibrate(loaded, corpus, scores=names)


def rule_of(name: str, loaded) -> Rule:
    rule = make_rule(name)
    if loaded.model_type == "opt" and rule.score in NEED_A_GATE:
        rule = make_rule(name.partition(":")[0], score="h")
    return rule


def made(rule: Rule, strength: float, curves, sites) -> Thresholds:
    names = [site.name for site in sites]
    return thresholds_at(rule, rule.level(strength), curves=curves, sites=names)


def dense_rows(covering) -> list[list[Rows]]:
    """The rows of each window of a dense run, by site."""
    kept: list[list[Rows]] = []
    for batch in text_corpus(96).batches(1):
        kept.append([])
        with (
            torch.no_grad(),
            tapped(
                covering.sites, lambda _, rows: kept[-1].append(rows), gate=True, extra=("up", "pre_gate")
            ),
        ):
            covering.model(input_ids=batch.ids)
    return kept


@pytest.mark.parametrize("name", CELLS)
def test_the_active_set_shrinks_as_strength_rises(name, known):
    loaded, curves = known
    rule = rule_of(name, loaded)
    covered = covering(loaded, rule.score)
    reach, windows, order = rule.reach(curves), dense_rows(covered), _run_order(covered)
    before, ratios = None, []
    strengths = [0.0, *np.geomspace(reach.start / 100, reach.most, 12)]
    for strength in strengths:
        mask = Mask(covered.sites, made(rule, strength, curves, covered.sites))
        mask.real = torch.ones(1, 32, dtype=torch.bool)
        active = [mask.active(i, rows) for window in windows for i, rows in zip(order, window, strict=True)]
        assert before is None or all((a <= b).all() for a, b in zip(active, before, strict=True))
        before = active
        ratios.append(np.mean([a.double().mean() for a in active]))
    assert ratios == sorted(ratios, reverse=True)
    # the prompt of a rule that chooses from the prompt stays dense: half of each window
    assert ratios[-1] < (0.6 if mask._selection.from_prompt else 0.1)


def _run_order(covered) -> list[int]:
    """The index of each site in the order in which the model runs the sites."""
    order: list[int] = []
    with torch.no_grad(), tapped(covered.sites, lambda index, _: order.append(index), gate=False):
        covered.model(input_ids=torch.full((1, 4), 5))
    return order


@pytest.mark.parametrize("name", CELLS)
def test_strength_zero_is_dense_bit_for_bit_and_sparse_is_not(name, known):
    loaded, curves = known
    rule, ids = (
        rule_of(name, loaded),
        torch.randint(3, 100, (2, 16), generator=torch.Generator().manual_seed(0)),
    )
    sites = covering(loaded, rule.score).sites
    for strength, equal in ((0.0, True), (rule.reach(curves).start, False)):
        mask = Mask(sites, made(rule, strength, curves, sites))
        mask.real = torch.ones(2, 16, dtype=torch.bool)
        with torch.no_grad():
            dense = loaded.model(ids).logits
            with tapped(sites, mask.masked, gate=mask.needs_gate, extra=mask.extra):
                sparse = loaded.model(ids).logits
        assert torch.equal(dense, sparse) == equal


@pytest.mark.parametrize("name", [cell for cell in CELLS if cell != "griffin:x"])
def test_generate_equals_the_masked_forward(name, known):
    loaded, curves = known
    rule = rule_of(name, loaded)
    sites = covering(loaded, rule.score).sites
    thresholds = made(rule, rule.reach(curves).start, curves, sites)
    ids = torch.randint(3, 100, (1, 8), generator=torch.Generator().manual_seed(1))
    options = {"max_new_tokens": 9, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with torch.no_grad(), sparsify(loaded.model, thresholds) as sparse:
        out = sparse.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            output_logits=True,
            return_dict_in_generate=True,
            **options,
        )
    mask = Mask(sites, thresholds)
    text = out.sequences[:, :-1]  # 16 tokens, whose first half is the prompt
    mask.real = torch.ones_like(text, dtype=torch.bool)
    with torch.no_grad(), tapped(sites, mask.masked, gate=mask.needs_gate, extra=mask.extra):
        whole = loaded.model(text, use_cache=False).logits
    torch.testing.assert_close(torch.stack(out.logits, dim=1), whole[:, 7:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [cell for cell in CELLS if cell != "griffin:x"])
def test_padding_of_a_batch_changes_no_generated_text(name, known):
    """A shorter prompt is padded on the left; a set that is chosen from the prompt must not see the padding."""
    loaded, curves = known
    rule = rule_of(name, loaded)
    thresholds = made(rule, rule.reach(curves).start, curves, covering(loaded, rule.score).sites)
    ids = torch.randint(3, 100, (2, 10), generator=torch.Generator().manual_seed(4))
    real = torch.ones_like(ids)
    ids[0, :6], real[0, :6] = 0, 0
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    options |= {"output_logits": True, "return_dict_in_generate": True}

    def logits(sparse, ids, real):
        return torch.stack(sparse.generate(ids, attention_mask=real, **options).logits, dim=1)

    with torch.no_grad(), sparsify(loaded.model, thresholds) as sparse:
        both = logits(sparse, ids, real)
        alone = [logits(sparse, ids[:1, 6:], real[:1, 6:]), logits(sparse, ids[1:], real[1:])]
    torch.testing.assert_close(both, torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_an_attention_mask_counts_by_place_too_and_ends_with_its_forward(known):
    loaded, curves = known
    rule = make_rule("top_k", scope="sequence")
    thresholds = made(rule, 0.3, curves, loaded.sites)
    ids = torch.randint(3, 100, (2, 10), generator=torch.Generator().manual_seed(4))
    real = torch.ones_like(ids)
    ids[0, :6], real[0, :6] = 0, 0
    with torch.no_grad(), sparsify(loaded.model, thresholds) as sparse:
        whole = sparse(ids).logits
        named, by_place = sparse(ids, attention_mask=real).logits, sparse(ids, real).logits
        assert torch.equal(named[real.bool()], by_place[real.bool()])
        assert not torch.allclose(named[0, 6:], whole[0, 6:])
        assert torch.equal(sparse(ids).logits, whole), "the mask of an earlier forward does not count"
        sparse.base_model(ids[:, :7])  # the body alone is not watched


@pytest.mark.parametrize("name", CELLS)
def test_padding_and_the_order_of_windows_change_nothing(name, known):
    loaded, curves = known
    rule = rule_of(name, loaded)
    sites = covering(loaded, rule.score).sites
    mask = Mask(sites, made(rule, rule.reach(curves).start, curves, sites))
    ids = torch.randint(3, 100, (2, 12), generator=torch.Generator().manual_seed(2))

    def run(ids, real):
        mask.real = real
        with torch.no_grad(), tapped(sites, mask.masked, gate=mask.needs_gate, extra=mask.extra):
            return loaded.model(ids, attention_mask=real.long()).logits

    alone = run(ids[:1], torch.ones(1, 12, dtype=torch.bool))
    padded = torch.zeros(2, 16, dtype=torch.long)
    padded[0, :12], padded[1, :12] = ids[1], ids[0]
    real = torch.zeros(2, 16, dtype=torch.bool)
    real[:, :12] = True
    torch.testing.assert_close(run(padded, real)[1, :12], alone[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CELLS)
def test_strength_is_the_inverse_of_level_and_reach_makes_sense(name, known):
    loaded, curves = known
    rule = rule_of(name, loaded)
    reach = rule.reach(curves)
    assert isinstance(reach, Reach)
    assert 0 < reach.step < reach.start <= reach.most
    for strength in (0.0, reach.start, reach.most):
        assert rule.strength(rule.level(strength)) == pytest.approx(strength, rel=1e-6, abs=1e-15)
        rule.check(rule.level(strength))


def test_a_signed_score_and_two_scores_of_one_kind_are_refused():
    for name in ("cett", "fat", "quantile", "top_p", "top_p_l2"):
        with pytest.raises(
            InputError, match=f"{name} cuts magnitudes, and 'pre_gate' is a value with a sign"
        ):
            make_rule(f"{name}:pre_gate")
    with pytest.raises(InputError, match=r"'gate\+h' are for the same kind of site"):
        make_rule("cett:gate+h")
    with pytest.raises(InputError, match="score 'up' needs a feed-forward block with gate_proj and up_proj"):
        calibrate(tiny_loaded("opt"), text_corpus(60), scores=("up",))


@pytest.mark.parametrize(
    ("name", "bad", "bracket"),
    [
        ("cett", (-0.1, 1.01, float("nan")), r"\[0, 1\]"),
        ("fat", (-1e-9, float("nan"), float("inf")), r"\[0, inf\]"),
        ("top_k", (0.0, -0.5, 1.5, float("nan")), r"\(0, 1\]"),
    ],
)
def test_levels_outside_are_refused_and_told(name, bad, bracket):
    rule = make_rule(name)
    for level in bad:
        with pytest.raises(InputError, match=rf"level of {name} \({rule.level_name}\) must be in {bracket}"):
            rule.check(level)


def test_a_rule_by_name():
    rule = make_rule("fat")
    assert make_rule(rule) is rule
    with pytest.raises(InputError, match=r"Unknown rule 'ctt'. Did you mean: cett"):
        make_rule("ctt")
    with pytest.raises(InputError, match=r"'PPL-1%' is no rule: PPL-p% is the rule cett at the level where"):
        make_rule("PPL-1%")
    with pytest.raises(ValueError, match="'fat' is already registered"):
        register_rule(type(rule))
