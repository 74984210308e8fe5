"""The benchmarks on shapes so small that they run in seconds: who is timed, what is counted, what is derived."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from sparsing.bench import block_bench as ffn_bench
from sparsing.bench import model_bench as whole_bench
from sparsing.bench.block_bench import FFNPlan, bench_ffn
from sparsing.bench.block_result import FFNBench
from sparsing.bench.dictation import hugging_face_seconds, llama_cpp_seconds
from sparsing.bench.engines import as_dtype, torch_compiled
from sparsing.bench.llama_cpp import BYTES, llama_cpp
from sparsing.bench.model_bench import WholePlan, bench_planted
from sparsing.bench.model_result import WholeBench
from sparsing.bench.planted import plant
from sparsing.bench.planted_model import build_model, plant_model
from sparsing.bench.shapes import DecodeShape
from sparsing.decode.kernels.cuts import no_cuts
from sparsing.decode.kernels.plain import ffn
from sparsing.errors import InputError
from sparsing.hardware.bandwidth import measure_bandwidth
from sparsing.report.decode_figures import speedup_curves
from sparsing.report.decode_tables import ffn_tables, markdown, notes, whole_tables
from sparsing.sites.discovery import find_sites
from sparsing.sites.tap import tapped

pytest.importorskip("numba", reason="the CPU kernels need numba")
SMALL = DecodeShape(
    name="small", d_model=64, d_ff=256, n_layers=2, n_heads=2, n_kv_heads=2, head_dim=32, vocab_size=320
)
WEIGHTS = 3 * 64 * 256


@pytest.fixture(scope="module", autouse=True)
def short_yardstick():
    """The bandwidth of a buffer of 4 MB: what it says matters to no test here."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (ffn_bench, whole_bench):
            patch.setattr(
                module,
                "measure_bandwidth",
                lambda threads: measure_bandwidth(threads=threads, buffer_bytes=2**22),
            )
        yield


@pytest.fixture(scope="module")
def bench() -> FFNBench:
    plan = FFNPlan(
        ratios=(0.1, 1.0),
        batches=(1, 3),
        bits=(4,),
        rounds=2,
        threads=1,
        engines=("eager",),
        cycled_bytes=2**20,
    )
    return bench_ffn([SMALL], plan)


def by_name(bench, dtype, batch, ratio=None):
    return {line.name: line for line in bench.of("small", dtype, batch) if line.ratio == ratio}


def test_every_contestant_is_there(bench):
    assert bench.groups() == [
        ("small", dtype, n) for dtype in ("float32", "bfloat16", "int8") for n in (1, 3)
    ]
    assert set(by_name(bench, "float32", 1)) == {"torch eager", "own dense"}
    assert set(by_name(bench, "int8", 1)) == {"own dense"}
    assert set(by_name(bench, "int8", 3, 0.1)) == {"sparse, exact", "4-bit predictor"}
    assert bench.left_out == ("torch: no int8 weights in its public linear layers",)
    assert bench.cycled_bytes["small float32"] >= 2**20


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4 * WEIGHTS), ("bfloat16", 2 * WEIGHTS)])
def test_bytes(bench, dtype, size):
    for line in by_name(bench, dtype, 1).values():
        assert line.bytes_moved == size
        assert line.byte_ceiling == 1
    exact = by_name(bench, dtype, 1, 0.1)["sparse, exact"]
    assert exact.bytes_moved == pytest.approx(size * (1 + 2 * exact.read_ratio) / 3)
    predicted = by_name(bench, dtype, 1, 0.1)["4-bit predictor"]
    copy = 256 * (64 + 2)  # a row of 64 weights is padded to a group of 128: 64 bytes of codes, 2 of scale
    assert copy < predicted.bytes_moved < copy + 0.2 * size


def test_all_neurons_are_read_where_all_are_active(bench):
    for dtype in ("float32", "bfloat16", "int8"):
        full = by_name(bench, dtype, 1, 1.0)["sparse, exact"]
        assert full.read_ratio == pytest.approx(1, abs=2e-3)
        assert full.byte_ceiling == pytest.approx(1, abs=2e-3)


def test_a_batch_reads_what_any_of_its_tokens_needs(bench):
    one, three = (by_name(bench, "float32", n, 0.1)["sparse, exact"] for n in (1, 3))
    assert one.active_ratio == three.active_ratio == pytest.approx(0.1, abs=0.03)
    assert one.read_ratio == pytest.approx(one.active_ratio, abs=0.03)
    assert three.read_ratio > 1.8 * one.read_ratio


def test_outputs_are_right(bench):
    allowed = {"float32": 1e-5, "bfloat16": 2e-2, "int8": 1e-5}
    for line in bench.lines:
        error = line.output_error
        assert error is not None
        assert error < (0.2 if line.name == "4-bit predictor" else allowed[line.dtype]), line


def test_the_predictor_is_judged(bench):
    for line in bench.lines:
        if line.name == "4-bit predictor":
            assert 0.9 < line.recall <= 1
            assert 0 < line.predicted_ratio <= 1
        else:
            assert line.recall is None


def test_speedups_are_against_the_fastest_dense_engine(bench):
    for group in bench.groups():
        lines = bench.of(*group)
        best = min(line.ms for line in lines if line.dense)
        for line in lines:
            assert line.speedup == pytest.approx(best / line.ms)
            assert line.ceiling_share == pytest.approx(line.speedup / line.byte_ceiling)
            assert line.bytes_per_sec == pytest.approx(line.bytes_moved / line.ms * 1e3)
            assert line.ms_low <= line.ms <= line.ms_high


def test_saved_shown_and_drawn(bench, tmp_path):
    assert FFNBench.load(bench.save(tmp_path / "ffn.json")) == bench
    tables = ffn_tables(bench)
    header, rows = tables["FFN of small, float32, batch 1, 1 threads"]
    assert len(rows) == 2 + 2 * 2
    assert {len(row) for row in rows} == {len(header)}
    assert rows[0][0] in ("torch eager", "own dense")
    assert markdown((header, rows)).count("\n") == len(rows) + 1
    assert any("planted" in note for note in notes(bench))
    panels = [axes for axes in speedup_curves(bench, 3).axes if axes.axison]
    assert [axes.get_title(loc="left") for axes in panels] == [
        "small, float32",
        "small, bfloat16",
        "small, int8",
    ]
    measured = panels[0].lines[0].get_ydata()
    wanted = [by_name(bench, "float32", 3, ratio)["sparse, exact"].speedup for ratio in (0.1, 1.0)]
    assert list(measured) == wanted


@pytest.mark.parametrize(
    "wrong", [{"ratios": (0.0,)}, {"batches": (9,)}, {"rounds": 0}, {"dtypes": ("float16",)}]
)
def test_a_plan_that_is_none(wrong):
    with pytest.raises(InputError, match="got"):
        FFNPlan(**wrong)


def test_llama_cpp_runs_the_shape():
    pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")
    pytest.importorskip("gguf", reason="needs gguf")
    for kind in BYTES:
        with llama_cpp(SMALL, kind, threads=1, context=8) as engine:
            assert len(llama_cpp_seconds(engine, [1, 2, 3, 4, 5, 6], 2)) == 3
            for _ in range(3):
                engine.decode([1, 2, 3])  # past the end of the context, which begins anew
            assert engine._model.n_tokens <= 8


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:.torch.jit:DeprecationWarning"
)  # torch's own, of what its compiler imports
def test_torch_compile_gives_the_same():
    packed = as_dtype(plant(64, 96).packed, "float32")
    x = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    contestant, seconds = torch_compiled([packed], [packed.down.T.contiguous()], x)
    assert seconds > 0
    torch.testing.assert_close(contestant.calls[0](x), ffn(packed, x, no_cuts(96)), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def model():
    return build_model(SMALL, "float32", context=256)


def test_a_model_is_planted_again_and_again(model):
    sites = find_sites(model)
    ids = torch.randint(3, 320, (4, 64), generator=torch.Generator().manual_seed(11))
    for ratio in (0.1, 0.5, 0.1):
        plant_model(model, sites, ratio)
        shares = []

        def count(layer, gate, h, shares=shares):
            shares.append((h != 0).float().mean().item())

        with torch.no_grad(), tapped(sites, count, gate=False):
            model(input_ids=ids)
        assert shares == pytest.approx([ratio] * 2, rel=0.25)


def test_generate_writes_what_is_dictated(model):
    ids = torch.randint(3, 320, (12,), generator=torch.Generator().manual_seed(2)).tolist()
    assert len(hugging_face_seconds(model, ids, 5)) == 6  # seven are written, the first is not timed


def test_whole_models(tmp_path):
    plan = WholePlan(
        ratios=(0.2,),
        dtypes=("float32",),
        rounds=1,
        prompt_tokens=12,
        new_tokens=5,
        threads=1,
        calibration_tokens=64,
    )
    bench = bench_planted([SMALL], plan)
    lines = {line.name: line for line in bench.lines}
    engines = ["Hugging Face", "own dense", "sparse, exact", "4-bit predictor"]
    assert [name for name in lines if not name.startswith("llama")] == engines
    weights = 2 * (4 * 64 * 64 + WEIGHTS + 2 * 64) + 320 * 64 + 64  # two norms a layer and the last one
    assert lines["own dense"].bytes_per_token == 4 * weights
    exact = lines["sparse, exact"]
    assert exact.active_ratio == pytest.approx(0.2, abs=0.08)
    saved = 4 * 2 * WEIGHTS * 2 / 3 * (1 - exact.active_ratio)  # up and down of what is inactive
    assert exact.bytes_per_token == pytest.approx(4 * weights - saved)
    assert exact.byte_ceiling == pytest.approx(lines["own dense"].bytes_per_token / exact.bytes_per_token)
    assert exact.speedups["own dense"] == pytest.approx(lines["own dense"].ms / exact.ms)
    assert 0.9 < lines["4-bit predictor"].recall <= 1
    assert WholeBench.load(bench.save(tmp_path / "whole.json")) == bench
    ((header, rows),) = whole_tables(bench).values()
    assert len(rows) == len(lines)
    assert {len(row) for row in rows} == {len(header)}


def test_a_model_in_another_dtype_is_refused():
    with pytest.raises(InputError, match="float32 and bfloat16"):
        build_model(dataclasses.replace(SMALL, name="x"), "int8")


def test_a_whole_plan_that_is_none():
    with pytest.raises(InputError, match="3 new tokens"):
        WholePlan(new_tokens=2)


@pytest.mark.parametrize(
    ("name", "kind", "tables"),
    [("ffn", FFNBench, ffn_tables), ("batches", FFNBench, ffn_tables), ("whole", WholeBench, whole_tables)],
)
def test_results_of_the_repository_can_be_read_and_shown(name, kind, tables):
    results = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
    found = sorted(results.glob(f"decode-{name}-*.json"))
    assert found
    for path in found:
        bench = kind.load(path)
        assert sum(len(rows) for _, rows in tables(bench).values()) == len(bench.lines) > 0
        assert bench.processor in notes(bench)[0]
