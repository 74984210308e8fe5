"""The Triton kernels equal the plain PyTorch block, on a GPU if there is one, otherwise in Triton's interpreter.

Sums are float32 in another order than in PyTorch (`TOLERANCE[float32]`). Half floats add the rounding of the output
and, for several tokens, the rounding of `h`.
"""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch

from sparsing.decode.kernels.cuts import Cuts, no_cuts
from sparsing.decode.kernels.modes import SkipMode
from sparsing.decode.kernels.packing import PackedFFN, to_int8
from sparsing.decode.kernels.plain import ACT, ffn, hidden
from sparsing.decode.predict.quantised import LayerPredictor, build_predictor, quantise_rows, quantise_tokens
from sparsing.errors import InputError

pytest.importorskip("triton", reason="needs the extra gpu: pip install 'sparsing[gpu]'")

from sparsing.decode.kernels.gpu import block as gpu_block
from sparsing.decode.kernels.gpu import passes
from sparsing.decode.kernels.gpu.block import TritonFFN
from sparsing.decode.kernels.gpu.tiles import MORE_TOKENS, ONE_TOKEN, fitting

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}
"""Dtype to largest error, as a share of the largest output."""
SMALL = {"programs": 4, "splits": 2, "gate_rows": 32}
ONE = dataclasses.replace(ONE_TOKEN, hidden_rows=8, **SMALL)
MORE = dataclasses.replace(MORE_TOKENS, **SMALL)
"""Few tiles, since the interpreter is slow on each."""


def packed_ffn(d_model: int, d_ff: int, act: str, dtype: torch.dtype, seed: int = 0) -> PackedFFN:
    generator = torch.Generator().manual_seed(seed)
    weights = [
        (torch.randn(d_ff, d_model, generator=generator) / d_model**0.5).to(DEVICE, dtype) for _ in range(3)
    ]
    return PackedFFN(gate=weights[0], up=weights[1], down=weights[2], act=act)


def tokens(number: int, packed: PackedFFN, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(number, packed.d_model, generator=generator).to(DEVICE, packed.gate.dtype)


def random_cuts(d_ff: int, gate: float = -1.0) -> Cuts:
    return Cuts(gate=gate, h=torch.rand(d_ff, generator=torch.Generator().manual_seed(2)) * 0.4)


def block(packed: PackedFFN, cuts: Cuts, predictor: LayerPredictor | None = None) -> TritonFFN:
    return TritonFFN(packed, cuts, predictor, one=ONE, more=MORE)


def assert_close(y: torch.Tensor, wanted: torch.Tensor, dtype: torch.dtype) -> None:
    most = max(float(wanted.abs().max()), 1e-6)
    torch.testing.assert_close(y.float(), wanted, rtol=0, atol=TOLERANCE[dtype] * most)


def separated(packed: PackedFFN, predictor: LayerPredictor, x: torch.Tensor) -> LayerPredictor:
    """The predictor with its cut in the widest gap below the middle of the sizes, so that no rounding decides.

    Under a ReLU this cut is negative, so that the sign of a predicted gate counts.
    """
    sizes = predictor.sizes(x, packed.act).flatten().sort().values
    middle = sizes[len(sizes) * 2 // 5 : len(sizes) // 2]
    widest = int(middle.diff().argmax())
    cut = float(middle[widest : widest + 2].mean())
    return dataclasses.replace(predictor, cuts=torch.full((packed.d_ff,), cut))


_random = random.Random(6)
SHAPES = [
    (_random.randint(1, 300), _random.randint(1, 90), tokens_, act, dtype, gate)
    for tokens_, act, dtype, gate in (
        (1, "relu", torch.bfloat16, -1.0),
        (1, "gelu", torch.float32, 0.1),
        (1, "silu", torch.float16, -1.0),
        (2, "relu2", torch.float32, -1.0),
        (5, "gelu_tanh", torch.float16, 0.2),
        (8, "silu", torch.bfloat16, -1.0),
    )
] + [(128, 64, 1, "relu", torch.float32, 0.3), (1, 1, 1, "relu", torch.float32, -1.0)]


@pytest.mark.parametrize(("d_model", "d_ff", "number", "act", "dtype", "gate"), SHAPES)
def test_equals_the_plain_version(d_model, d_ff, number, act, dtype, gate):
    packed = packed_ffn(d_model, d_ff, act, dtype)
    cuts, x = random_cuts(d_ff, gate), tokens(number, packed)
    kernels = block(packed, cuts)
    y = kernels.sparse(x)
    assert y.shape == x.shape
    assert y.dtype == dtype
    assert_close(y, ffn(packed, x, cuts), dtype)
    assert_close(kernels.dense(x), ffn(packed, x, no_cuts(d_ff)), dtype)


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("act", ["relu", "silu"])  # the gate alone is predicted, or up too
def test_the_predicted_set_is_computed_exactly(number, bits, act):
    packed = packed_ffn(150, 70, act, torch.float32)
    cuts, x = random_cuts(70), tokens(number, packed)
    predictor = build_predictor(packed, cuts, tokens(32, packed, seed=3), bits=bits)
    assert (predictor.up_codes is None) == (act == "relu")
    predictor = separated(packed, predictor, x)
    assert (float(predictor.cuts[0]) < 0) == (act == "relu")
    predicted = predictor.predict(x, act)
    kernels = block(packed, cuts, predictor)
    h = hidden(packed, x, cuts) * predicted
    assert_close(kernels.sparse(x), h @ packed.floats()[2], torch.float32)
    union, active = int(predicted.any(0).sum()), int((h != 0).any(0).sum())
    assert 0 < active < union < 70
    assert kernels.counts == (union, union, active)
    assert kernels.bytes_read() == (2 * union + active) * 150 * 4 + predictor.copy_bytes


@pytest.mark.parametrize("d_model", [128, 77])
def test_tokens_are_quantised_as_the_predictor_was_calibrated(d_model):
    x = torch.randn(3, d_model, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    x[1] = 0
    x[2, 5] = float("inf")
    codes = torch.full((3, 128), 99, dtype=torch.int8, device=DEVICE)
    scales = torch.empty(3, device=DEVICE)
    passes.quantise[(3,)](x, codes, scales, D_MODEL=d_model, WIDTH=128, PADDED=128)
    wanted, wanted_scales = quantise_tokens(x)
    torch.testing.assert_close(codes[:2, :d_model], wanted[:2], rtol=0, atol=0)
    torch.testing.assert_close(scales, wanted_scales, equal_nan=True)
    assert not codes[:, d_model:].any()


def test_all_active_and_none():
    packed = packed_ffn(60, 50, "silu", torch.float32)
    x = tokens(2, packed)
    everything = block(packed, no_cuts(50))
    assert torch.equal(everything.sparse(x), everything.dense(x))
    assert everything.counts == (100, 100, 100)
    by_gate = block(packed, Cuts(gate=1e9, h=no_cuts(50).h))
    assert not by_gate.sparse(x).any()
    assert by_gate.counts == (50, 0, 0)
    by_h = block(packed, Cuts(gate=-1.0, h=torch.full((50,), torch.inf)))
    assert not by_h.sparse(x).any()
    assert by_h.counts == (50, 50, 0)


def test_a_predictor_that_selects_nothing_reads_only_its_copy():
    packed = packed_ffn(128, 40, "relu", torch.bfloat16)
    predictor = build_predictor(packed, no_cuts(40), tokens(16, packed))
    kernels = block(packed, no_cuts(40), dataclasses.replace(predictor, cuts=torch.full((40,), torch.inf)))
    assert not kernels.sparse(tokens(1, packed)).any()
    assert kernels.bytes_read() == predictor.copy_bytes == 40 * (64 + 2)


def test_rows_read_are_counted_by_hand():
    eye = torch.eye(4, device=DEVICE)
    packed = PackedFFN(gate=eye, up=eye, down=eye, act="relu")
    kernels = block(packed, Cuts(gate=-1.0, h=torch.full((4,), 4.0)))
    x = torch.tensor([[3.0, -3.0, 1.0, 0.0]], device=DEVICE)  # h = 9, 0, 1, 0
    assert kernels.sparse(x).tolist() == [[9.0, 0.0, 0.0, 0.0]]
    assert kernels.counts == (4, 2, 1)
    assert kernels.bytes_read() == 7 * 16
    kernels.reset_counts()
    assert kernels.bytes_read() == 0
    # the union is read, each token's own rule applied: the second token has h = 0, 9, 0, 0
    both = torch.cat([x, -x])
    assert kernels.sparse(both).tolist() == [[9.0, 0.0, 0.0, 0.0], [0.0, 9.0, 0.0, 0.0]]
    assert kernels.counts == (4, 3, 2)


@pytest.mark.parametrize("act", ["relu", "silu"])
@pytest.mark.parametrize("predict", [False, True])
def test_nan_passes_through_for_its_own_token_alone(act, predict):
    packed = packed_ffn(40, 33, act, torch.float32)
    cuts, x = random_cuts(33), tokens(3, packed)
    predictor = build_predictor(packed, cuts, tokens(16, packed, seed=3)) if predict else None
    kernels = block(packed, cuts, predictor)
    clean = kernels.sparse(x)
    x[1, 7] = float("nan")
    y = kernels.sparse(x)
    assert y[1].isnan().all()
    torch.testing.assert_close(y[[0, 2]], clean[[0, 2]])
    assert kernels.dense(x[1:2]).isnan().all()
    assert kernels.sparse(x[1:2]).isnan().all()


def test_results_do_not_depend_on_what_the_buffers_hold():
    packed = packed_ffn(90, 60, "relu", torch.bfloat16)
    kernels, x = block(packed, random_cuts(60)), tokens(4, packed)
    first = kernels.sparse(x)
    kernels.dense(tokens(8, packed, seed=9))
    for buffer in (kernels.workspace.h, kernels.workspace.gates, kernels.workspace.parts):
        buffer.fill_(float("nan"))
    for buffer in (
        kernels.workspace.entries,
        kernels.workspace.sizes,
        kernels.workspace.candidates,
        kernels.workspace.candidate_sizes,
    ):
        buffer.fill_(10**9)
    assert torch.equal(kernels.sparse(x), first)


def test_results_do_not_depend_on_the_tiles():
    packed = packed_ffn(96, 100, "relu", torch.float32)
    cuts, x = random_cuts(100), tokens(1, packed)
    other = dataclasses.replace(ONE, programs=8, splits=8, gate_rows=16, hidden_rows=16, hidden_block=32)
    y = TritonFFN(packed, cuts, one=other, more=MORE).sparse(x)
    assert_close(y, block(packed, cuts).sparse(x), torch.float32)


@pytest.mark.parametrize("sizes", [{"gate_rows": 24}, {"down_block": 0}, {"splits": 8}, {"stages": 0}])
def test_invalid_tiles_are_rejected(sizes):
    with pytest.raises(InputError, match="powers of two"):
        dataclasses.replace(ONE, **sizes)


@pytest.mark.parametrize(("columns", "block"), [(4096, 1024), (2304, 512), (1792, 256), (37, 32), (1, 1)])
def test_a_block_of_columns_wastes_at_most_an_eighth(columns, block):
    assert fitting(columns, 1024) == block


def test_x_of_another_dtype_and_no_token():
    packed = packed_ffn(40, 30, "relu", torch.bfloat16)
    kernels = block(packed, no_cuts(30))
    x = tokens(1, packed)
    assert torch.equal(kernels.sparse(x.float()), kernels.sparse(x).float())
    assert kernels.sparse(x[:0]).shape == (0, 40)


def test_invalid_inputs_are_rejected():
    packed = packed_ffn(32, 16, "relu", torch.float32)
    with pytest.raises(InputError, match=r"int8; load the model with dtype bfloat16"):
        TritonFFN(to_int8(packed), no_cuts(16))
    kernels = block(packed, no_cuts(16))
    with pytest.raises(InputError, match="up to 8 tokens at once, got 9"):
        kernels.sparse(tokens(9, packed))
    with pytest.raises(InputError, match=r"shape \(tokens, 32\), got \(2, 31\)"):
        kernels.sparse(torch.zeros(2, 31, device=DEVICE))
    number = kernels.number
    del kernels
    with pytest.raises(InputError, match="compiled for is gone"):
        torch.ops.sparsing.triton_ffn(tokens(1, packed), number, SkipMode.DENSE.value)


def test_without_gpu_and_interpreter_the_error_says_what_to_do(monkeypatch):
    packed = packed_ffn(32, 16, "relu", torch.float32)
    kernels = block(packed, no_cuts(16))
    monkeypatch.setattr(gpu_block, "INTERPRETED", type(gpu_block.INTERPRETED)(False))
    with pytest.raises(InputError, match="need a CUDA device, got x on cpu; use CpuFFN"):
        kernels.sparse(tokens(1, packed).cpu())


def test_the_compiler_sees_one_operator():
    packed = packed_ffn(32, 40, "relu", torch.float32)
    kernels, x = block(packed, random_cuts(40)), tokens(1, packed)
    operator = torch.ops.sparsing.triton_ffn.default
    torch.library.opcheck(operator, (x, kernels.number, SkipMode.BY_GATE.value))
    compiled = torch.compile(lambda x: kernels.sparse(x) * 2, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), kernels.sparse(x) * 2)


def test_every_activation_equals_the_plain_one():
    x = torch.linspace(-4, 4, 40, device=DEVICE)
    for act, plain in ACT.items():
        gate = x[:, None].contiguous()
        packed = PackedFFN(gate=gate, up=torch.ones_like(gate), down=torch.eye(40, device=DEVICE), act=act)
        packed = dataclasses.replace(packed, down=torch.ones_like(gate))
        y = block(packed, no_cuts(40)).dense(torch.ones(1, 1, device=DEVICE))
        assert float(y) == pytest.approx(float(plain(x).sum()), rel=1e-5)


def test_products_of_the_extreme_codes_are_exact():
    """An error in the offset or the sign of a code would show at the extremes of both widths."""
    rows = torch.tensor([[1.0, -1.0] * 64, [-1.0] * 128, [1.0] * 128])
    x = torch.tensor([[1.0, -1.0] * 64], device=DEVICE)
    packed = PackedFFN(gate=rows.to(DEVICE), up=rows.to(DEVICE), down=rows.to(DEVICE), act="silu")
    for bits in (4, 8):
        codes, scales = quantise_rows(rows, bits)
        predictor = LayerPredictor(
            bits=bits, recall=1.0, gate_codes=codes, gate_scales=scales, cuts=torch.tensor([126.0, 0.1, 0.1])
        )
        for number in (1, 2):
            kernels = block(packed, no_cuts(3), predictor)
            kernels.sparse(x.expand(number, -1))
            assert kernels.counts == (1, 1, 1)  # products 128, 0, 0
