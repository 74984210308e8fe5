"""Advice on a built-in model: its rows agree with `measure`, and it can be saved and drawn."""

from __future__ import annotations

import pytest

from sparsing.decode.advice._advise import advise
from sparsing.decode.advice.result import Advice
from sparsing.measuring.subject import Subject
from sparsing.report.charts.decode_charts import advice_picture
from sparsing.report.static import save_picture
from sparsing.text.corpus import split_holdout

from ...helpers.decode_models import demo


def test_advice_on_a_demo_model(tmp_path, monkeypatch):
    pytest.importorskip("numba", reason="the CPU kernels need numba: pip install 'sparsing[cpu]'")
    monkeypatch.setattr("sparsing.decode.advice._advise.TIMING_SEC", 0.0)
    loaded, corpus, _ = demo("relu")
    corpus, heldout = split_holdout(corpus, 0.2)
    subject = Subject(loaded, corpus, heldout=heldout)
    advice = advise(subject, rules=("cett", "top_k"), ppl_ratios=(1.05,), new_tokens=12)
    assert [(row.rule, row.way) for row in advice.rows] == [
        ("cett", "exact"),
        ("cett", "4-bit"),
        ("top_k", "none"),
    ]
    exact, with_predictor, not_timed = advice.rows
    for row in advice.rows:
        assert row.ppl_ratio == pytest.approx(1.05, abs=2e-3)
        assert row.ceiling == pytest.approx(advice.weights.speedup_ceiling(row.activation_ratio))
        assert row.speedup > 0
        assert row.advice
    assert exact.measured
    assert not not_timed.measured
    assert not_timed.byte_speedup == pytest.approx(not_timed.ceiling)
    assert not_timed.speedup <= not_timed.ceiling
    assert abs(with_predictor.predictor_ppl_change) < 0.01
    back = Advice.load(advice.save(tmp_path / "advice.json"))
    assert back.rows == advice.rows
    assert back.sentence
    for path in save_picture(advice_picture(back), tmp_path, "advice"):
        assert path.stat().st_size > 1000
