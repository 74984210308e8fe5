"""Even strengths: a map that rises, gives back what it got, and turns the calibrated error into a square."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sparsing.demo import checkpoints, heldout_text
from sparsing.measuring.even_strengths import SAME_STRENGTHS, EvenStrengths
from sparsing.measuring.hints import Hints
from sparsing.measuring.observation import Observation
from sparsing.measuring.rise_curve import SlopePrior
from sparsing.measuring.search import search
from sparsing.measuring.search_result import SearchResult
from sparsing.measuring.subject import Subject
from sparsing.models.loading import load_model
from sparsing.rules import Reach, make_rule
from sparsing.rules.curves import Curves, ScoreCurve
from sparsing.text.corpus import load_corpus

RULES = (
    "cett",
    "fat:neuron_norm",
    "quantile:neuron_norm",
    "top_k:neuron_norm",
    "top_p:neuron_norm",
    "top_p_l2",
)


@pytest.fixture(scope="module")
def subject():
    loaded = load_model(checkpoints("silu")[-1], dtype="float32", device="cpu")
    corpus = load_corpus([heldout_text()], loaded.tokenizer, window=128, max_tokens=4096)
    return Subject(loaded, corpus, scores=("neuron_norm", "h"))


def evened(subject, name: str, start: float = 0.3) -> EvenStrengths:
    rule = make_rule(name)
    even = EvenStrengths.of(rule, start, rule.reach(subject.curves).most, subject.curves)
    assert even is not None
    return even


@pytest.mark.parametrize("name", RULES)
def test_the_map_rises_and_comes_back(subject, name):
    even = evened(subject, name)
    most = make_rule(name).reach(subject.curves).most
    strengths = [strength for strength in np.geomspace(1e-4, 1e4, 200) if strength <= most]
    mapped = [even.even(strength) for strength in strengths]
    assert (np.diff(mapped) > 0).all()
    assert [even.strength(one) for one in mapped] == pytest.approx(strengths, rel=1e-9)
    assert even.even(0.3) == pytest.approx(0.3)
    assert even.even(0.0) == 0.0
    assert even.even(math.inf) == math.inf


@pytest.mark.parametrize("name", RULES)
def test_the_error_is_a_square_of_the_even_strength(subject, name):
    """Where each step drops neurons; the map is interpolated between points that are 5% apart."""
    rule, even = make_rule(name), evened(subject, name)
    strengths = np.geomspace(0.1, 0.8, 12)
    errors = np.array([rule.squared_errors(rule.level(s), subject.curves).mean() for s in strengths])
    squares = np.array([even.even(strength) for strength in strengths]) ** 2
    assert np.ptp(np.log(errors / squares)) < 0.02


def test_the_weights_decide_which_site_shapes_the_map(subject):
    """On SmolLM2 the last block decides. With all the weight on one site the map follows the error of that site."""
    rule, curves = make_rule("fat:neuron_norm"), subject.curves
    strengths = np.geomspace(0.1, 0.8, 12)
    for site in range(4):
        weights = np.eye(4)[site]
        even = EvenStrengths.of(rule, 0.3, rule.reach(curves).most, curves, weights)
        errors = np.array([rule.squared_errors(rule.level(s), curves)[site] for s in strengths])
        squares = np.array([even.even(strength) for strength in strengths]) ** 2
        assert np.ptp(np.log(errors / squares)) < 0.05
    equal = EvenStrengths.of(rule, 0.3, rule.reach(curves).most, curves, np.full(4, 7.0))
    assert equal.even(0.7) == pytest.approx(evened(subject, "fat:neuron_norm").even(0.7))


def test_the_level_of_cett_is_its_own_even_strength(subject):
    even = evened(subject, "cett")
    assert even.even(0.5) == pytest.approx(0.5, rel=0.02)
    assert even.stretch(0.3) == pytest.approx(1.0, abs=0.05)
    assert evened(subject, "top_p_l2").stretch(0.3) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("name", ["griffin", "top_k:up"])
def test_a_rule_without_a_calibrated_error_has_no_even_strengths(subject, name):
    """GRIFFIN drops neurons that are large at later tokens; `up` was not calibrated."""
    assert EvenStrengths.of(make_rule(name), 0.3, 10.0, subject.curves) is None


def test_every_strength_is_itself_without_a_map():
    assert SAME_STRENGTHS.even(0.3) == SAME_STRENGTHS.strength(0.3) == 0.3
    assert SAME_STRENGTHS.stretch(0.3) == pytest.approx(1.0)


def cliff(strength: float) -> float:
    """The root of an error that grows tenfold between 0.27 and 0.28, and by a power law around that."""
    on_the_way = min(max(math.log(strength / 0.27) / math.log(0.28 / 0.27), 0.0), 1.0)
    return strength * 10 ** (on_the_way / 2)


@pytest.mark.parametrize("start", [0.2735, 0.2765])
def test_a_pass_on_a_cliff_is_moved_if_the_error_shows_the_cliff(start):
    """FAT on a SiLU gate: a small step of the threshold drops all gates of nearly the same size."""
    grid = np.log(np.geomspace(0.05, 1.0, 400))
    even = EvenStrengths(grid, np.log([cliff(math.exp(x)) for x in grid]))
    labels = np.full(16, 100.0)
    scatter = 1 + 0.6 * np.sin(np.arange(16.0))
    target = 0.01 * cliff(0.275) ** 2

    def passed(level: float, on_all: bool) -> Observation:
        rises = 0.01 * cliff(level) ** 2 * scatter / scatter.mean()
        return Observation(strength=level, rise=labels * rises, labels=labels, on_all=on_all)

    found = search(
        make_rule("cett"),
        passed,
        ppl_ratio=math.exp(target),
        reach=Reach(start=start, most=3.0, step=1e-7),
        hints=Hints(even=even, slope=SlopePrior(log_sd=0.15)),
        by_curve=True,
    )
    assert len(found.tries) == 1
    assert not found.meets_target
    assert found.fitted_strength is not None
    assert 0.01 * cliff(found.fitted_strength) ** 2 == pytest.approx(target, rel=0.01)
    assert found.slope > 10, "of the strength itself, which moves little on the cliff"


def test_a_result_is_told_in_strengths_whatever_the_search_stepped_along():
    """The rise is the fourth power of the strength: a square of even strengths that are its square."""
    grid = np.log(np.geomspace(0.05, 2.0, 100))
    labels, scatter = np.full(16, 100.0), 1 + 0.6 * np.sin(np.arange(16.0))

    def passed(level: float, on_all: bool) -> Observation:
        rises = 0.01 * (level / 0.5) ** 4 * scatter / scatter.mean()
        return Observation(strength=level, rise=labels * rises, labels=labels, on_all=on_all)

    def found(hints: Hints) -> SearchResult:
        reach = Reach(start=0.47, most=2.0, step=1e-7)
        ratio = math.exp(0.01)
        return search(make_rule("cett"), passed, ppl_ratio=ratio, reach=reach, hints=hints, by_curve=True)

    along_strength = found(Hints(slope=SlopePrior(median=4.0, log_sd=0.15)))
    along_even = found(Hints(slope=SlopePrior(log_sd=0.15), even=EvenStrengths(grid, 2 * grid)))
    assert along_even.stretch == pytest.approx(2.0)
    assert along_strength.stretch is None
    for one in (along_strength, along_even):
        assert not one.meets_target
        assert len(one.tries) == 1
    for field in ("level", "fitted_strength", "slope", "slope_sd", "level_sd", "fitted_ppl_ratio"):
        assert getattr(along_even, field) == pytest.approx(getattr(along_strength, field), rel=1e-4), field


def test_the_error_of_a_rule_that_ranks_neurons_is_that_of_each_site():
    """A site of a ReLU model with fewer neurons than `k` that are not zero drops none, whatever other sites drop."""
    thresholds = np.tile(np.geomspace(0.01, 1.0, 20), (2, 1))
    shares = np.linspace(1, 0, 20)
    curve = ScoreCurve(
        on="h",
        thresholds=thresholds,
        cett=thresholds,
        ratio=np.stack([0.1 * shares, 0.9 * shares]),
        nonzero=np.array([0.1, 0.9]),
    )
    curves = Curves(
        sites=("one", "two"),
        scores={"h": curve},
        d_ff=100,
        sampled_tokens=10,
        num_tokens=10,
        window_nll=np.ones(1),
        window_labels=np.ones(1),
    )
    rule = make_rule("top_k:h")
    errors = curve.cett_at(curve.threshold_at_ratio(np.array([0.1, 0.5])))
    assert rule.squared_errors(0.5, curves) == pytest.approx(errors**2)
    assert errors[0] == 0.0
    assert errors[1] > 0.05


def test_the_mass_of_other_values_than_h_is_no_error(subject):
    """`top_p_l2:gate` keeps squared gates, and their mass says nothing about the output."""
    assert make_rule("top_p_l2:gate").squared_errors(0.9, subject.curves) is None
    assert make_rule("top_p_l2").squared_errors(0.9, subject.curves) == pytest.approx(np.full(4, 0.1))
    assert make_rule("top_p").squared_errors(0.9, subject.curves) == pytest.approx(np.full(4, 0.01))
