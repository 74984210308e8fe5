"""The choice of tokens: greedy, and the sets that temperature, top-k and top-p leave."""

from __future__ import annotations

import numpy as np
import pytest

from sparsing.decode.engine.sampling import Sampler, Sampling, candidates
from sparsing.errors import InputError

LOGITS = np.log(np.array([0.1, 0.5, 0.15, 0.25], np.float32))


def test_greedy_takes_the_largest_logit():
    assert Sampler(Sampling())(LOGITS) == 1


def test_probabilities_by_hand():
    ids, p = candidates(LOGITS, Sampling(temperature=1.0))
    assert ids.tolist() == [1, 3, 2, 0]
    assert p == pytest.approx([0.5, 0.25, 0.15, 0.1])
    ids, p = candidates(LOGITS, Sampling(temperature=1.0, top_k=2))
    assert ids.tolist() == [1, 3]
    assert p == pytest.approx([2 / 3, 1 / 3])
    # 0.5 + 0.25 reaches 0.7, so two tokens stay; exactly 0.5 needs one
    assert candidates(LOGITS, Sampling(temperature=1.0, top_p=0.7))[0].tolist() == [1, 3]
    assert candidates(LOGITS, Sampling(temperature=1.0, top_p=0.45))[0].tolist() == [1]
    hot = candidates(LOGITS, Sampling(temperature=0.5))[1]
    assert hot == pytest.approx(np.array([0.25, 0.0625, 0.0225, 0.01]) / 0.345, rel=1e-6)


def test_samples_follow_the_probabilities_and_the_seed():
    sampling = Sampling(temperature=1.0, seed=3)
    first, second = Sampler(sampling), Sampler(sampling)
    drawn = [first(LOGITS) for _ in range(4000)]
    assert drawn[:100] == [second(LOGITS) for _ in range(100)]
    shares = np.bincount(drawn, minlength=4) / len(drawn)
    assert shares == pytest.approx([0.1, 0.5, 0.15, 0.25], abs=0.03)


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.5}, {"seed": -1}]
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(InputError, match="sampling needs"):
        Sampling(**wrong)


def test_the_smallest_temperatures_are_greedy():
    for temperature in (1e-6, 1e-310, 5e-324):
        ids, p = candidates(LOGITS, Sampling(temperature=temperature))
        assert ids[0] == 1
        assert p[0] == 1
