"""Top-k against a plain sort: per token, and over a sequence as the reference does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsing.errors import InputError
from sparsing.measuring.calibration import calibrate
from sparsing.measuring.observation import Observation
from sparsing.measuring.search import search
from sparsing.rules import SELECTIONS, make_rule
from sparsing.rules.scores import sizes

from ...helpers.measuring import text_corpus, tiny_loaded


def token(value, scale, share, real):
    return active_by("top_k", value, scale, share, real)


def sequence(value, scale, share, real):
    return active_by("top_k_sequence", value, scale, share, real)


def active_by(selection, value, scale, share, real):
    """The active set as a mask computes it: without exact zeros."""
    size = sizes(value, scale)
    return SELECTIONS[selection].active(size, share, real) & (size != 0)


def random_values(seed: int, *shape: int, zeros: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    value = torch.randn(shape, generator=generator)
    return value * (torch.rand(shape, generator=generator) >= zeros)


def all_real(value: torch.Tensor) -> torch.Tensor:
    return torch.ones(value.shape[:2], dtype=torch.bool)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 9999), share=st.floats(0.001, 1), zeros=st.sampled_from([0.0, 0.6, 1.0]))
def test_per_token_it_is_the_head_of_a_sort_without_zeros(seed, share, zeros):
    value = random_values(seed, 2, 3, 40, zeros=zeros)
    active = token(value, None, share, all_real(value))
    kept = max(1, round(share * 40))
    for row, found in zip(value.flatten(0, 1), active.flatten(0, 1), strict=True):
        head = sorted(range(40), key=lambda i: -abs(row[i]))[:kept]
        assert set(found.nonzero()[:, 0].tolist()) == {i for i in head if row[i] != 0}


def test_of_equal_scores_the_first_are_kept_so_that_exactly_k_stay():
    value = torch.tensor([[[3.0, -1.0, 1.0, 1.0, 0.5]]])
    for select in (token, sequence):
        assert select(value, None, 0.4, all_real(value))[0, 0].tolist() == [True, True, False, False, False]
        assert select(value, None, 0.6, all_real(value))[0, 0].tolist() == [True, True, True, False, False]


def test_in_half_precision_exactly_k_stay():
    """Half precision has so many equal scores that a comparison with the smallest kept one keeps 31% of 30%."""
    value = random_values(0, 2, 8, 1000).bfloat16()
    assert (token(value, None, 0.3, all_real(value)).sum(-1) == 300).all()
    assert (sequence(value, None, 0.3, all_real(value)).sum((1, 2)) == 8000 - int(0.7 * 8000)).all()


def test_the_expected_ratio_of_a_relu_model_stops_at_what_is_not_zero():
    curves = calibrate(tiny_loaded("opt"), text_corpus(300), scores=("gate",))
    nonzero = float(curves["gate"].nonzero.mean())
    assert 0.1 < nonzero < 0.9
    rule = make_rule("top_k")
    assert rule.expected_ratio(0.95, curves) == pytest.approx(nonzero)
    assert rule.expected_ratio(0.01, curves) == pytest.approx(0.01)


def test_at_least_one_neuron_stays_and_at_one_all_but_zeros():
    value = random_values(0, 1, 4, 30, zeros=0.3)
    assert token(value, None, 1e-9, all_real(value)).sum(-1).tolist() == [[1, 1, 1, 1]]
    for select in (token, sequence):
        assert torch.equal(select(value, None, 1.0, all_real(value)), value != 0)


def test_a_scale_is_part_of_the_score():
    value, scale = torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([9.0, 2.0, 1.0])
    for select in (token, sequence):
        assert select(value, scale, 1 / 3, all_real(value))[0, 0].tolist() == [True, False, False]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 9999), share=st.floats(0.001, 1))
def test_over_a_sequence_the_smallest_drop_tokens_competing(seed, share):
    value = random_values(seed, 2, 5, 12)
    active = sequence(value, None, share, all_real(value))
    for window, found in zip(value, active, strict=True):
        dropped = int((1 - share) * 60)
        smallest = set(window.flatten().abs().argsort()[:dropped].tolist())
        assert set((~found).flatten().nonzero()[:, 0].tolist()) == smallest


def test_padding_does_not_compete():
    value = random_values(1, 2, 6, 10)
    value[1, 4:] = 1e6
    real = all_real(value)
    real[1, 4:] = False
    padded = sequence(value, None, 0.3, real)
    alone = sequence(value[1:, :4], None, 0.3, real[1:, :4])
    assert torch.equal(padded[1, :4], alone[0])
    assert (~padded[1, :4]).sum() == int(0.7 * 40)


def test_scopes():
    assert make_rule("top_k").selection == "top_k"
    assert make_rule("top_k", scope="sequence").selection == "top_k_sequence"
    with pytest.raises(InputError, match="scope of top_k must be 'token' or 'sequence', got 'batch'"):
        make_rule("top_k", scope="batch")


def test_over_a_sequence_a_search_goes_below_one_neuron():
    curves = calibrate(tiny_loaded(), text_corpus(100), scores=("gate",))
    rule = make_rule("top_k", scope="sequence")

    def steep(level, on_all):
        labels = np.full(4, 10.0)
        rise = min(5.0, 0.04 * ((1 - level) / 0.6) ** 90)
        return Observation(strength=rule.strength(level), rise=labels * rise, labels=labels, on_all=on_all)

    found = search(rule, steep, ppl_ratio=1.05, reach=rule.reach(curves))
    assert found.converged
    assert make_rule("top_k").reach(curves).step == 1 / 96
