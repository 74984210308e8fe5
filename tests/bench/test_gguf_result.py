"""The advice of a benchmark of a GGUF file: dense where no layer skips or the gain is small, or impossible by bytes."""

from __future__ import annotations

import pytest

from sparsing.base.provenance import Provenance
from sparsing.bench.gguf_result import LLAMA_CPP, OWN_DENSE, OWN_SPARSE, GgufBenchmark, GgufTiming
from sparsing.decode.engine.writing import EngineStats, TimeShares
from sparsing.hardware.bandwidth import Bandwidth


def timing(name: str, ms: float) -> GgufTiming:
    return GgufTiming(
        name=name, tok_per_sec=1000 / ms, ms=ms, ms_low=ms, ms_high=ms, bytes_per_token=1.0, bandwidth_share=0.5,
        speedup=10 / ms,
    )  # fmt: skip


def made(*, dense_ms: float, sparse_ms: float, sparse_layers: int, sparse_bytes: float) -> GgufBenchmark:
    def stats(bytes_per_token: float, layers: int) -> EngineStats:
        return EngineStats(
            activation_ratio=0.3,
            ffn_bytes_ratio=0.5,
            bytes_per_token=bytes_per_token,
            dense_bytes_per_token=100.0,
            sparse_layers=layers,
            shares=TimeShares(attention=0.2, feed_forward=0.6, head=0.2),
        )

    return GgufBenchmark(
        file="m.gguf",
        weight_types={"Q8_0": 1},
        threads=1,
        rounds=3,
        context=4,
        lines=(timing(LLAMA_CPP, 10), timing(OWN_DENSE, dense_ms), timing(OWN_SPARSE, sparse_ms)),
        dense=stats(100.0, 0),
        sparse=stats(sparse_bytes, sparse_layers),
        way_ratios=(1.0, 1.0),
        copy_bytes=0,
        copy_error=0.0,
        left_out=(),
        bandwidth=Bandwidth(read_bytes_per_sec=1e9, copy_bytes_per_sec=1e9, threads=1, buffer_bytes=1),
        processor="",
        provenance=Provenance(model="m"),
    )


@pytest.mark.parametrize(
    ("dense_ms", "sparse_ms", "layers", "sparse_bytes", "advice"),
    [
        (9, 8, 0, 100, "decode dense; with 30% of the neurons active no layer is faster by skipping"),
        (
            9,
            8.9,
            2,
            60,
            "decode dense; with 30% of the neurons active, skipping the others saves less than 5%",
        ),
        (
            9,
            4,
            2,
            60,
            "measure again with nothing else running; 2.25x was measured, but the bytes allow 1.67x",
        ),
        (30, 20, 2, 60, "use llama.cpp; skipping pays 1.50x, but llama.cpp is faster still"),
        (9, 6, 2, 60, "use it; skipping pays 1.50x with 30% of the neurons active"),
    ],
)
def test_advice(dense_ms, sparse_ms, layers, sparse_bytes, advice):
    result = made(dense_ms=dense_ms, sparse_ms=sparse_ms, sparse_layers=layers, sparse_bytes=sparse_bytes)
    assert result.advice.startswith(f"advice: {advice}")


def test_without_sparse_layers_no_gain_is_claimed():
    """The two engines are then the same, so their times differ by noise only."""
    assert made(dense_ms=9, sparse_ms=8, sparse_layers=0, sparse_bytes=100).sentence.endswith(
        "can bring at most 2.50x; none of 2 layers skips neurons, with 30.0% of the neurons active"
    )
    assert made(dense_ms=9, sparse_ms=6, sparse_layers=2, sparse_bytes=60).sentence.endswith(
        "it brings 1.50x with 30.0% of the neurons active; 2 of 2 layers skip neurons"
    )
