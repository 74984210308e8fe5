"""Advice on a built-in model: its rows agree with `measure`, and it can be saved and drawn."""

from __future__ import annotations

import pytest
import torch

from sparsing.decode._accelerate import accelerate
from sparsing.decode.advice._advise import advise
from sparsing.decode.advice.bounds import ways_of
from sparsing.decode.advice.result import Advice
from sparsing.errors import NonFiniteError
from sparsing.measuring.subject import Subject
from sparsing.measuring.weight_bytes import weight_bytes
from sparsing.report.charts.decode_charts import advice_picture
from sparsing.report.static import save_picture
from sparsing.rules import make_rule
from sparsing.text.corpus import load_corpus, split_holdout

from ...helpers.decode_models import demo
from ...helpers.measuring import loaded, random_text
from ...helpers.overflow import BAD, overflowing


def test_advice_on_a_demo_model(tmp_path, monkeypatch):
    pytest.importorskip("numba", reason="the CPU kernels need numba: pip install 'sparsing[cpu]'")
    monkeypatch.setattr("sparsing.decode.advice._advise.TIMING_SEC", 0.0)
    loaded, corpus, _ = demo("relu")
    corpus, heldout = split_holdout(corpus, 0.2)
    subject = Subject(loaded, corpus, heldout=heldout)
    monkeypatch.setattr("sparsing.decode.advice.bounds.MIN_CEILING", 1.0)  # so that everything is timed
    advice = advise(subject, rules=("cett", "top_k"), ppl_ratios=(1.05,), new_tokens=12)
    assert [bound.leaves_hope for bound in advice.bounds] == [True]
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


def test_text_after_the_prompt_that_overflows(monkeypatch):
    """The corpus is finite, but what the model writes is not."""
    pytest.importorskip("numba", reason="the CPU kernels need numba: pip install 'sparsing[cpu]'")
    model = loaded(overflowing(torch.float32))
    subject = Subject(model, load_corpus([random_text(600)], model.tokenizer, window=32))
    bad = model.tokenizer(f"ab{BAD}", add_special_tokens=False, return_tensors="pt")["input_ids"]
    monkeypatch.setattr("sparsing.decode.advice._advise._prompt", lambda _: bad)
    with pytest.raises(
        NonFiniteError, match=r"text after the first 16 tokens: the input of down_proj of layer 1"
    ):
        advise(subject, ppl_ratios=(1.05,), new_tokens=4, threads=1)
    assert not model.model._forward_hooks


def test_a_bound_that_says_no_ends_the_advice(monkeypatch):
    """The break-even ratio of a huge ceiling is so small that perplexity rises far above the target."""
    pytest.importorskip("numba", reason="the CPU kernels need numba: pip install 'sparsing[cpu]'")
    loaded, corpus, _ = demo("relu")
    subject = Subject(loaded, corpus)
    monkeypatch.setattr("sparsing.decode.advice._advise.accelerate", None)  # a timing would fail
    weights = weight_bytes(loaded)
    exact, _ = ways_of(subject, make_rule("cett"), 4)
    monkeypatch.setattr("sparsing.decode.advice.bounds.MIN_CEILING", exact.speedup(0.02, weights))
    advice = advise(subject, ppl_ratios=(1.01, 1.02), bits=None, new_tokens=4)
    assert advice.rows == ()
    assert [bound.break_even for bound in advice.bounds] == pytest.approx([0.02, 0.02])
    assert all(bound.ppl_ratio > 1.02 for bound in advice.bounds)
    assert advice.sentence.startswith("decode dense: a speed-up of")
    assert "measure again" not in advice.sentence


def test_bytes_of_the_ways_agree_with_the_kernels():
    """What a way reads by arithmetic is what the kernels count, at the ratio that they count."""
    pytest.importorskip("numba", reason="the CPU kernels need numba: pip install 'sparsing[cpu]'")
    for activation in ("relu", "silu"):
        loaded, corpus, _ = demo(activation)
        subject = Subject(loaded, corpus)
        rule = make_rule("cett")
        thresholds = subject.thresholds(rule, 0.1)
        (exact,) = ways_of(subject, rule, None)
        with torch.inference_mode(), accelerate(loaded.model, thresholds, measure=False) as fast:
            for token in next(corpus.batches(1)).ids[0, 1:20]:
                loaded.model(token.reshape(1, 1))
            stats = fast.stats()
        expected = exact.speedup(stats.activation_ratio, weight_bytes(loaded))
        # a ReLU reads the up rows of positive gates, of which more exist than active neurons
        assert stats.byte_speedup <= expected * 1.001
        assert stats.byte_speedup == pytest.approx(expected, rel=0.15)
