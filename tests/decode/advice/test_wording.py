"""Sentences follow from the figures of a row."""

from __future__ import annotations

import dataclasses
import re

import pytest

from sparsing.decode.advice.result import AdviceRow
from sparsing.decode.advice.wording import recommendation, with_sentence
from sparsing.measuring.weight_bytes import WeightBytes

ROW = AdviceRow(
    rule="cett",
    level=0.2,
    target_ppl_ratio=1.01,
    ppl_ratio=1.01,
    activation_ratio=0.1,
    way="exact",
    measured=True,
    dense_bytes=1e10,
    step_bytes=5e9,
    ceiling=2.4,
    tok_per_sec=18.0,
    dense_tok_per_sec=10.0,
)
BIG = WeightBytes(total_bytes=10**10, ffn_bytes=7 * 10**9)


@pytest.mark.parametrize(
    ("changes", "weights", "expected"),
    [
        ({}, BIG, "use it: 1.80x for 1.00% more perplexity, 90% of the bandwidth-limited speed-up"),
        ({"predictor_ppl_change": 0.001}, BIG, "use it: 1.80x for 1.10% more"),
        ({"measured": False}, BIG, "no kernel"),
        (
            {"tok_per_sec": 26.0},
            BIG,
            "measure again .*: 2.60x was measured, but the bandwidth-limited .* 2.00x",
        ),
        (
            {"tok_per_sec": 10.0, "ceiling": 1.1},
            dataclasses.replace(BIG, ffn_bytes=10**9),
            "attention and head dominate at this size \\(90% of the bytes\\)",
        ),
        (
            {"tok_per_sec": 10.0, "ceiling": 1.1, "activation_ratio": 0.9},
            BIG,
            "90% of the neurons stay active",
        ),
        ({"tok_per_sec": 10.0}, WeightBytes(total_bytes=10**6, ffn_bytes=5 * 10**5), "stay in the cache"),
        ({"tok_per_sec": 10.0, "step_bytes": 9.5e9}, BIG, "reads so much"),
        ({"tok_per_sec": 10.0}, BIG, "1.00x was measured; the bandwidth-limited speed-up is 2.00x"),
        ({"speedup_quartiles": (0.9, 1.8, 2.0)}, BIG, "skip it: 1.80x \\(0.90 to 2.00\\) was measured"),
    ],
)
def test_sentences(changes, weights, expected):
    row = with_sentence(dataclasses.replace(ROW, **changes), weights)
    assert re.search(expected, row.advice), row.advice


def test_the_recommendation():
    slow = with_sentence(dataclasses.replace(ROW, tok_per_sec=9.0), BIG)
    assert recommendation([slow], BIG).startswith("decode dense:")
    assert "take cett at 0.01 more perplexity, exact" in recommendation([slow, with_sentence(ROW, BIG)], BIG)
    disturbed = with_sentence(dataclasses.replace(ROW, tok_per_sec=300.0), BIG)
    assert recommendation([slow, disturbed], BIG).startswith("measure again")
    assert recommendation([disturbed, with_sentence(ROW, BIG)], BIG).startswith("take cett")
    assert "no rule asked for has kernels" in recommendation([dataclasses.replace(ROW, measured=False)], BIG)
