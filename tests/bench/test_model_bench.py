"""A benchmark of whole models on a small shape: which engines are timed and which bytes are counted."""

from __future__ import annotations

import pytest
import torch

from sparsing.bench.model_bench import ModelPlan, bench_loaded_model, bench_planted_models
from sparsing.bench.model_result import ModelBenchmark
from sparsing.errors import InputError, NonFiniteError
from sparsing.report.decode_tables import whole_tables
from sparsing.rules.thresholds import Thresholds

from ..helpers.measuring import loaded, random_text
from ..helpers.overflow import BAD, overflowing

WEIGHTS = 3 * 64 * 256


def test_whole_models(small_shape, tmp_path):
    pytest.importorskip("numba", reason="the CPU kernels need numba")
    plan = ModelPlan(
        ratios=(0.2,),
        dtypes=("float32",),
        rounds=1,
        prompt_tokens=12,
        new_tokens=5,
        threads=1,
        calibration_tokens=64,
    )
    bench = bench_planted_models([small_shape], plan)
    lines = {line.name: line for line in bench.lines}
    engines = ["Hugging Face", "own dense", "sparse, exact", "4-bit predictor"]
    assert [name for name in lines if not name.startswith("llama")] == engines
    weights = 2 * (4 * 64 * 64 + WEIGHTS + 2 * 64) + 320 * 64 + 64  # two norms a layer and the last one
    assert lines["own dense"].bytes_per_token == 4 * weights
    exact = lines["sparse, exact"]
    assert exact.active_ratio == pytest.approx(0.2, abs=0.08)
    saved = 4 * 2 * WEIGHTS * 2 / 3 * (1 - exact.active_ratio)  # up and down rows of inactive neurons
    assert exact.bytes_per_token == pytest.approx(4 * weights - saved)
    assert exact.byte_ceiling == pytest.approx(lines["own dense"].bytes_per_token / exact.bytes_per_token)
    assert exact.speedups["own dense"] == pytest.approx(lines["own dense"].ms / exact.ms)
    assert 0.9 < lines["4-bit predictor"].recall <= 1
    assert ModelBenchmark.load(bench.save(tmp_path / "whole.json")) == bench
    ((header, rows),) = whole_tables(bench).values()
    assert len(rows) == len(lines)
    assert {len(row) for row in rows} == {len(header)}


def test_a_checkpoint_that_overflows_is_named():
    """Its argmax is a NaN, so no text would be decoded."""
    pytest.importorskip("numba", reason="the CPU kernels need numba")
    model = loaded(overflowing(torch.float32))
    cuts = Thresholds(rule="cett", level=0.1, on="neuron_norm", values=(0.01, 0.01))
    plan = ModelPlan(
        rounds=1, prompt_tokens=8, new_tokens=6, threads=1, calibration_tokens=32, with_llama_cpp=False
    )
    text = random_text(plan.text_tokens - 4)
    ids = model.tokenizer(text + "ab" + BAD + "c", add_special_tokens=False)["input_ids"]
    with pytest.raises(
        NonFiniteError, match=r"the text: the input of down_proj of layer 1 .* in float32; try"
    ):
        bench_loaded_model(model, cuts, plan, text=ids)
    assert not model.model._forward_hooks


def test_an_impossible_plan_is_rejected():
    with pytest.raises(InputError, match="3 new tokens"):
        ModelPlan(new_tokens=2)
