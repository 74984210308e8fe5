"""Tests that need a GPU: CUDA graphs, `torch.compile`, and that the host never waits."""

from __future__ import annotations

import pytest
import torch

from sparsing.bench.planted import plant_block
from sparsing.decode.predict.quantised import build_predictor

pytest.importorskip("triton", reason="needs the extra gpu: pip install 'sparsing[gpu]'")

from sparsing.decode.kernels.cuts import Cuts, no_cuts
from sparsing.decode.kernels.gpu.block import TritonFFN
from sparsing.decode.kernels.packing import PackedFFN
from sparsing.decode.kernels.plain import ffn, hidden

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
D_MODEL, D_FF = 1024, 2816


@pytest.fixture(scope="module")
def planted():
    return plant_block(D_MODEL, D_FF)


def packed_on_gpu(planted, dtype: torch.dtype) -> PackedFFN:
    gate, up, down = (
        weight.to("cuda", dtype) for weight in (planted.packed.gate, planted.packed.up, planted.packed.down)
    )
    return PackedFFN(gate=gate, up=up, down=down, act="relu")


def block_of(planted, packed: PackedFFN, bits: int | None) -> TritonFFN:
    if bits is None:
        return TritonFFN(packed, no_cuts(D_FF))
    sample = planted.inputs(64, 0.1, seed=5)
    return TritonFFN(packed, no_cuts(D_FF), build_predictor(planted.packed, no_cuts(D_FF), sample, bits=bits))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tokens", [1, 2, 8])
@pytest.mark.parametrize("ratio", [0.02, 0.4, 1.0])
def test_equals_the_plain_version(planted, dtype, tokens, ratio):
    packed = packed_on_gpu(planted, dtype)
    x = planted.inputs(tokens, ratio, seed=1).to("cuda", dtype)
    cuts = Cuts(gate=-1.0, h=torch.full((D_FF,), 0.05))
    wanted = ffn(packed, x, cuts)
    y = TritonFFN(packed, cuts).sparse(x)
    torch.testing.assert_close(y.float(), wanted, rtol=0, atol=2e-2 * float(wanted.abs().max()))


@pytest.mark.parametrize("bits", [None, 4, 8])
@pytest.mark.parametrize("tokens", [1, 4])
def test_a_captured_graph_follows_its_input(planted, bits, tokens):
    packed = packed_on_gpu(planted, torch.bfloat16)
    block = block_of(planted, packed, bits)
    x = planted.inputs(tokens, 0.1, seed=2).to("cuda", torch.bfloat16)
    block.sparse(x)  # compiles
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = block.sparse(x)
    for seed, ratio in ((3, 0.02), (4, 0.6), (5, 0.1)):
        x.copy_(planted.inputs(tokens, ratio, seed=seed))
        block.reset_counts()
        graph.replay()
        rows = block.counts
        assert torch.equal(y, block.sparse(x))
        assert block.counts == tuple(2 * row for row in rows)


@pytest.mark.parametrize("bits", [None, 4])
def test_compiled_with_cuda_graphs(planted, bits):
    block = block_of(planted, packed_on_gpu(planted, torch.bfloat16), bits)
    compiled = torch.compile(lambda x: block.sparse(x) + 1, mode="reduce-overhead", fullgraph=True)
    for seed in range(5):
        x = planted.inputs(1, 0.1, seed=seed).to("cuda", torch.bfloat16)
        torch.testing.assert_close(compiled(x).clone(), block.sparse(x) + 1)


def test_the_host_never_waits(planted):
    block = block_of(planted, packed_on_gpu(planted, torch.bfloat16), 4)
    x = planted.inputs(1, 0.1, seed=1).to("cuda", torch.bfloat16)
    block.sparse(x)
    torch.cuda.set_sync_debug_mode("error")
    try:
        block.sparse(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_compiled_predictor_names_the_same_neurons(planted):
    """The interpreter replaces the instruction for byte products of one token; only a GPU runs it."""
    packed, x = planted.packed, planted.inputs(1, 0.3, seed=1)
    for bits in (4, 8):
        predictor = build_predictor(packed, no_cuts(D_FF), planted.inputs(64, 0.3, seed=5), bits=bits)
        sizes = predictor.sizes(x, "relu")
        clear = ((sizes - predictor.cuts).abs() > 1e-4 * sizes.max())[0]
        block = TritonFFN(packed_on_gpu(planted, torch.float32), no_cuts(D_FF), predictor)
        block.sparse(x.to("cuda"))
        predicted = int((sizes > predictor.cuts).sum())
        assert abs(block.counts.gate - predicted) <= int((~clear).sum())
        h = hidden(packed, x, no_cuts(D_FF)) * predictor.predict(x, "relu")
        wanted = h @ packed.floats()[2]
        y = block.sparse(x.to("cuda")).cpu()
        torch.testing.assert_close(y, wanted, rtol=0, atol=1e-3 * float(wanted.abs().max()))
