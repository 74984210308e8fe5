"""Properties of every rule: bounds, strength as the inverse of level, and a ratio that never rises with strength."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparsing.errors import InputError
from sparsing.measuring.calibration import calibrate
from sparsing.rules import RULES, make_rule, register_rule
from sparsing.rules.mask import Mask
from sparsing.rules.rule import Reach
from sparsing.rules.thresholds import thresholds_at
from sparsing.sites.tap import Rows

from ..helpers.measuring import kept_activations, text_corpus, tiny_loaded

CASES = [*((name, {}) for name in sorted(RULES)), ("top_k", {"scope": "sequence"})]


@pytest.fixture(scope="module", params=["llama", "opt"])
def known(request):
    """A model, its curves of every score and its dense activations."""
    loaded, corpus = tiny_loaded(request.param), text_corpus(200)
    curves = calibrate(loaded, corpus, scores=("neuron_norm", "gate", "h"))
    return loaded, curves, kept_activations(loaded, corpus)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_ratio_never_rises_with_strength(name, options, known):
    loaded, curves, kept = known
    rule = make_rule(name, **options)
    reach = rule.reach(curves)
    before = [torch.ones_like(h, dtype=torch.bool) for _, h in kept]
    ratios = []
    for strength in np.linspace(0, reach.most, 14):
        thresholds = thresholds_at(
            rule, rule.level(strength), curves=curves, sites=[f"#{i}" for i in range(len(kept))]
        )
        mask = Mask(loaded.sites, thresholds)
        active = [mask.active(layer, Rows(gate, h, (len(h),))) for layer, (gate, h) in enumerate(kept)]
        assert all((a <= b).all() for a, b in zip(active, before, strict=True)), "neurons only drop out"
        before = active
        ratios.append(np.mean([a.double().mean() for a in active]))
    assert ratios == sorted(ratios, reverse=True)
    nonzero = np.mean([(h != 0).double().mean() for _, h in kept])
    assert ratios[0] == pytest.approx(nonzero)
    assert ratios[-1] < 0.1


@pytest.mark.parametrize(("name", "options"), CASES)
def test_strength_is_the_inverse_of_level_and_reach_makes_sense(name, options, known):
    _, curves, _ = known
    rule = make_rule(name, **options)
    reach = rule.reach(curves)
    assert isinstance(reach, Reach)
    assert 0 < reach.step < reach.start <= reach.most
    for strength in (0.0, reach.start, reach.most):
        assert rule.strength(rule.level(strength)) == pytest.approx(strength, abs=1e-15)
        rule.check(rule.level(strength))


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
    with pytest.raises(
        InputError, match=r"Unknown rule 'ctt'. Did you mean: cett\? Available: cett, fat, top_k"
    ):
        make_rule("ctt")
    with pytest.raises(ValueError, match="'fat' is already registered"):
        register_rule(type(rule))
