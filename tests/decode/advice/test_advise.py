"""Advice on a built-in model: rows that agree with the measuring core, and sentences that follow from figures."""

from __future__ import annotations

import dataclasses
import re

import pytest

from sparsing.decode.advice._advise import advise
from sparsing.decode.advice.result import Advice, AdviceRow
from sparsing.decode.advice.wording import advised, summed_up
from sparsing.measuring.subject import Subject
from sparsing.measuring.weight_bytes import WeightBytes
from sparsing.report.advice_figure import advice_figure
from sparsing.report.style import save
from sparsing.text.corpus import split_holdout

from ...helpers.decode_models import demo

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


def test_advice_on_a_demo_model(tmp_path, monkeypatch):
    pytest.importorskip("numba", reason="the CPU kernels need numba: pip install 'sparsing[cpu]'")
    monkeypatch.setattr("sparsing.decode.advice._advise.ENOUGH_SEC", 0.0)
    loaded, corpus, _ = demo("relu")
    corpus, heldout = split_holdout(corpus, 0.2)
    subject = Subject(loaded, corpus, heldout=heldout)
    advice = advise(subject, rules=("cett", "top_k"), ppl_ratios=(1.05,), new_tokens=12)
    assert [(row.rule, row.way) for row in advice.rows] == [
        ("cett", "exact"),
        ("cett", "4-bit"),
        ("top_k", "none"),
    ]
    exact, predicted, promised = advice.rows
    for row in advice.rows:
        assert row.ppl_ratio == pytest.approx(1.05, abs=2e-3)
        assert row.ceiling == pytest.approx(advice.weights.speedup_ceiling(row.activation_ratio))
        assert row.speedup > 0
        assert row.advice
    assert exact.measured
    assert not promised.measured
    assert promised.byte_speedup == pytest.approx(promised.ceiling)
    assert promised.speedup <= promised.ceiling
    assert abs(predicted.predictor_ppl_change) < 0.01
    back = Advice.load(advice.save(tmp_path / "advice.json"))
    assert back.rows == advice.rows
    assert back.sentence
    for path in save(advice_figure(back), tmp_path, "advice"):
        assert path.stat().st_size > 1000


@pytest.mark.parametrize(
    ("changes", "weights", "said"),
    [
        ({}, BIG, "use it: 1.80x for 1.00% more perplexity, 90% of what its bytes allow"),
        ({"predictor_ppl_change": 0.001}, BIG, "use it: 1.80x for 1.10% more"),
        ({"measured": False}, BIG, "no kernel"),
        ({"tok_per_sec": 26.0}, BIG, "measure again .*: 2.60x was measured where bytes allow 2.00x"),
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
        ({"tok_per_sec": 10.0}, BIG, "1.00x was measured where bytes allow 2.00x"),
        ({"speedup_quartiles": (0.9, 1.8, 2.0)}, BIG, "skip it: 1.80x \\(0.90 to 2.00\\) was measured"),
    ],
)
def test_sentences(changes, weights, said):
    row = advised(dataclasses.replace(ROW, **changes), weights)
    assert re.search(said, row.advice), row.advice


def test_the_sentence_of_all():
    slow = advised(dataclasses.replace(ROW, tok_per_sec=9.0), BIG)
    assert summed_up([slow], BIG).startswith("decode dense:")
    assert "take cett at 0.01 more perplexity, exact" in summed_up([slow, advised(ROW, BIG)], BIG)
    disturbed = advised(dataclasses.replace(ROW, tok_per_sec=300.0), BIG)
    assert summed_up([slow, disturbed], BIG).startswith("measure again")
    assert summed_up([disturbed, advised(ROW, BIG)], BIG).startswith("take cett")
    assert "no rule asked for has kernels" in summed_up([dataclasses.replace(ROW, measured=False)], BIG)
