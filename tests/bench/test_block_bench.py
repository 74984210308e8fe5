"""A block benchmark on a small shape: which engines are timed, which bytes are counted, what is derived from them."""

from __future__ import annotations

import pytest

from sparsing.bench.block_bench import BlockPlan, bench_blocks
from sparsing.bench.block_result import BlockBenchmark
from sparsing.errors import InputError
from sparsing.report.charts.decode_charts import speedup_picture
from sparsing.report.decode_tables import ffn_tables, markdown, notes
from sparsing.report.static import draw

pytest.importorskip("numba", reason="the CPU kernels need numba")
WEIGHTS = 3 * 64 * 256


@pytest.fixture(scope="module")
def bench(small_shape) -> BlockBenchmark:
    plan = BlockPlan(
        ratios=(0.1, 1.0),
        batches=(1, 3),
        bits=(4,),
        rounds=2,
        threads=1,
        engines=("eager",),
        cycled_bytes=2**20,
    )
    return bench_blocks([small_shape], plan)


def by_name(bench, dtype, batch, ratio=None):
    return {line.name: line for line in bench.of("small", dtype, batch) if line.ratio == ratio}


def test_every_engine_is_timed(bench):
    assert bench.groups() == [
        ("small", dtype, n) for dtype in ("float32", "bfloat16", "int8") for n in (1, 3)
    ]
    assert set(by_name(bench, "float32", 1)) == {"torch eager", "own dense"}
    assert set(by_name(bench, "int8", 1)) == {"own dense"}
    assert set(by_name(bench, "int8", 3, 0.1)) == {"sparse, exact", "4-bit predictor"}
    assert bench.left_out == ("torch: its public linear layers have no int8 weights",)
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
    assert BlockBenchmark.load(bench.save(tmp_path / "ffn.json")) == bench
    tables = ffn_tables(bench)
    header, rows = tables["FFN of small, float32, batch 1, 1 threads"]
    assert len(rows) == 2 + 2 * 2
    assert {len(row) for row in rows} == {len(header)}
    assert rows[0][0] in ("torch eager", "own dense")
    assert markdown((header, rows)).count("\n") == len(rows) + 1
    assert any("planted" in note for note in notes(bench))
    panels = [axes for axes in draw(speedup_picture(bench, 3)).axes if axes.axison]
    assert [axes.get_title(loc="left") for axes in panels] == [
        "small, float32",
        "small, bfloat16",
        "small, int8",
    ]
    drawn = panels[0].lines[0].get_ydata()
    expected = [by_name(bench, "float32", 3, ratio)["sparse, exact"].speedup for ratio in (0.1, 1.0)]
    assert list(drawn) == expected


@pytest.mark.parametrize(
    "wrong", [{"ratios": (0.0,)}, {"batches": (9,)}, {"rounds": 0}, {"dtypes": ("float16",)}]
)
def test_an_impossible_plan_is_rejected(wrong):
    with pytest.raises(InputError, match="got"):
        BlockPlan(**wrong)
