"""The expected rise of a rule: earlier rules show which sites hurt most, and its error grows with what is not known."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from sparsing.measuring.expected_rise import RULE_SD, ExpectedRise
from sparsing.rules import make_rule
from sparsing.rules.curves import Curves, ScoreCurve

WEIGHTS = np.array([0.5, 0.5, 0.5, 20.0])
"""How much an error at each site hurts, as on SmolLM2, where the last block decides."""
SCALES = np.array([1.0, 2.0, 0.5, 0.3])
"""Size of the scores of each site."""


def curve(on: str, sites: tuple[str, ...], **options) -> ScoreCurve:
    """Scores are uniform between 0 and their scale, so CETT is a power of the share that is dropped."""
    n = len(sites)
    shares = np.geomspace(0.01, 1.0, 30)
    return ScoreCurve(
        on=on,
        thresholds=SCALES[:n, None] * shares,
        cett=np.tile(shares**1.5, (n, 1)),
        ratio=np.tile(1 - shares, (n, 1)),
        sites=sites,
        **options,
    )


def curves(**options) -> Curves:
    blocks, attention = tuple(f"b{i}" for i in range(4)), ("a0", "a1")
    return Curves(
        sites=blocks,
        scores={
            "h": curve("h", blocks, **options),
            "gate": curve("gate", blocks),
            "x": curve("x", ("b0", "b1", *attention)),
        },
        d_ff=100,
        sampled_tokens=10,
        num_tokens=10,
        attention_inputs=attention,
        window_nll=np.ones(1),
        window_labels=np.ones(1),
    )


def rise(name: str, level: float, known: Curves) -> float:
    """The rise of a model with these weights, nats."""
    errors = make_rule(name).squared_errors(level, known)
    assert errors is not None
    return float(errors @ WEIGHTS[: len(errors)])


def learned(known: Curves, *observed: tuple[str, float]) -> ExpectedRise:
    expected = ExpectedRise(known)
    for name, level in observed:
        expected.add(make_rule(name), level, math.exp(rise(name, level, known)))
    return expected


def test_before_any_search_the_rise_is_the_squared_error_within_a_factor_of_a_few():
    known = curves()
    expected, sd = ExpectedRise(known).at(make_rule("cett:h"), 0.1, 1.01)
    assert expected == pytest.approx(math.log(0.1**2) + 0.7, abs=0.02)
    assert 1.0 < sd < 1.5


def test_rules_that_differ_teach_which_site_hurts_and_so_the_rise_of_the_next_rule():
    known = curves()
    rule, level = make_rule("quantile:h"), 0.1
    truth = math.log(rise("quantile:h", level, known))
    from_one = learned(known, ("cett:h", 0.05))
    from_two = learned(known, ("cett:h", 0.05), ("fat:h", 0.05), ("fat:h", 0.02), ("fat:h", 0.1))
    (_, sd_one), (two, sd_two) = (e.at(rule, level, 1.01) for e in (from_one, from_two))
    assert two == pytest.approx(truth, abs=0.15)
    assert RULE_SD < sd_two < sd_one
    equal, weights = from_one.weights(rule), from_two.weights(rule)
    assert np.ptp(equal) < 1e-6 * equal[0], "equal errors at all sites say nothing about which hurts"
    assert weights.argmax() == 3
    assert weights[3] > 4 * weights[:3].mean()


def test_the_mean_of_the_posterior_is_a_maximum():
    """The linear approximation converges: no parameter can be moved without lowering the density."""
    expected = learned(curves(), ("cett:h", 0.05), ("fat:h", 0.05), ("quantile:gate", 0.1), ("cett:x", 0.1))
    fitted = expected._fitted()
    parameters, (mean, sd) = fitted.parameters, expected._priors()

    def log_density(values: np.ndarray) -> float:
        expected._known = dataclasses.replace(fitted, parameters=values)
        residuals = [log_rise - expected._expected(cut)[0] for cut, log_rise in expected._observed.values()]
        return -0.5 * (
            float(np.sum(((values - mean) / sd) ** 2)) + float(np.sum(np.square(residuals))) / RULE_SD**2
        )

    best = log_density(parameters)
    for place in range(len(parameters)):
        for step in (-0.05, 0.05):
            moved = parameters.copy()
            moved[place] += step
            assert log_density(moved) < best


def test_a_repeated_search_adds_nothing():
    known, rule = curves(), make_rule("quantile:h")
    once, twice = (learned(known, *[("fat:h", 0.05)] * times).at(rule, 0.1, 1.01) for times in (1, 2))
    assert once == twice


def test_other_inputs_other_targets_and_other_ways_to_rank_are_known_less():
    known = curves()
    expected = learned(known, ("quantile:h", 0.1))
    sds = [
        expected.at(make_rule(name), level, ppl_ratio)[1]
        for name, level, ppl_ratio in (
            ("quantile:h", 0.1, math.exp(rise("quantile:h", 0.1, known))),
            ("quantile:h", 0.1, 1.2),
            ("quantile:gate", 0.1, 1.2),
            ("top_k:h", 0.9, 1.2),
            ("quantile:x", 0.1, 1.2),
        )
    ]
    assert sds == sorted(sds)
    assert sds[0] < 1.5 * RULE_SD
    assert sds[-1] > 3 * RULE_SD


def test_a_rule_without_errors_has_no_expectation():
    expected = ExpectedRise(curves())
    assert expected.at(make_rule("griffin"), 0.9, 1.01) is None, "a set drops what no threshold drops"
    assert expected.at(make_rule("gaussian_top_k"), 0.9, 1.01) is None, "a value with a sign has no curve"
    assert expected.at(make_rule("fat:h"), 0.0, 1.01) is None, "nothing is dropped"


def test_an_expert_that_runs_seldom_counts_less():
    share = np.array([0.7, 0.1, 0.1, 0.1])
    expected, rule = ExpectedRise(curves(share=share)), make_rule("fat:h")
    assert expected.weights(rule) / expected.weights(rule).sum() == pytest.approx(share)
    level = 0.02
    errors = rule.squared_errors(level, curves())
    both = [ExpectedRise(known).at(rule, level, 1.01)[0] for known in (curves(share=share), curves())]
    assert both[0] - both[1] == pytest.approx(math.log(errors @ share / errors.mean()))
