"""The benchmark results in `benchmarks/results`, which older versions wrote, can still be loaded and shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsing.bench.block_result import BlockBenchmark
from sparsing.bench.model_result import ModelBenchmark
from sparsing.report.decode_tables import ffn_tables, notes, whole_tables


@pytest.mark.parametrize(
    ("name", "kind", "tables"),
    [
        ("ffn", BlockBenchmark, ffn_tables),
        ("batches", BlockBenchmark, ffn_tables),
        ("whole", ModelBenchmark, whole_tables),
    ],
)
def test_results_of_the_repository_are_loaded_and_shown(name, kind, tables):
    results = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
    paths = sorted(results.glob(f"decode-{name}-*.json"))
    assert paths
    for path in paths:
        bench = kind.load(path)
        assert sum(len(rows) for _, rows in tables(bench).values()) == len(bench.lines) > 0
        assert bench.processor in notes(bench)[0]
