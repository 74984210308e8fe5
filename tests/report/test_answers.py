"""The answer of a measurement in a sentence: the interval, the ceiling, and whether skipping can pay."""

from __future__ import annotations

from sparsing.measuring.weight_bytes import WeightBytes
from sparsing.report.answers import answer, main_measurement

from ..helpers.measurements import make_measurement


def made(ratio: float, ffn_bytes: int = 800, **changes):
    weights = WeightBytes(total_bytes=1000, ffn_bytes=ffn_bytes)
    interval = (ratio - 0.05, ratio + 0.1)
    fields = {
        "activation_ratio": ratio,
        "activation_ratio_interval": interval,
        "weights": weights,
        "model": "a/m",
    }
    return make_measurement(**fields | changes)


def test_the_interval_stands_beside_the_figure():
    sentence = answer(made(0.25))
    assert sentence == (
        "a/m: 25.0% of the feed-forward neurons (95% interval 20.0 to 35.0%) must stay active if perplexity may rise"
        " by 1%;"
        " decoding can become at most 2.50 times as fast by skipping the others."
    )
    assert "interval" not in answer(made(0.25, activation_ratio_interval=None))


def test_a_small_ceiling_cannot_pay():
    assert "cannot pay: it saves at most 8% of the bytes per token" in answer(made(0.9))
    assert answer(made(0.5, weights=None)).endswith("may rise by 1%.")


def test_a_given_level_has_no_target():
    sentence = answer(made(0.5, target_ppl_ratio=None, rule="fat", level=0.1))
    assert "are active with fat 0.1" in sentence


def test_the_paper_measure_comes_first():
    given, five, one = (
        made(0.5, target_ppl_ratio=None),
        made(0.4, target_ppl_ratio=1.05),
        made(0.6, target_ppl_ratio=1.01),
    )
    assert main_measurement([given, five, one]) is one
    assert main_measurement([given, five]) is five
    assert main_measurement([given]) is given
