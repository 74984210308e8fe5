"""The CPU kernels equal the plain PyTorch block, for random shapes, dtypes, activations, cuts and batch sizes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsing.decode.kernels.cpu.block import CpuFFN
from sparsing.decode.kernels.cpu.linear import CpuLinear
from sparsing.decode.kernels.cuts import Cuts, no_cuts
from sparsing.decode.kernels.interface import MAX_TOKENS
from sparsing.decode.kernels.packing import PackedFFN, to_int8
from sparsing.decode.kernels.plain import ACT, ffn, hidden
from sparsing.decode.predict.quantised import build_predictor
from sparsing.errors import InputError

TOLERANCE = {"rtol": 1e-4, "atol": 2e-5}  # sums in float32, in another order
DTYPES = ("float32", "bfloat16", "int8")


def random_block(
    d_model: int, d_ff: int, *, act: str = "relu", dtype: str = "float32", seed: int = 0
) -> PackedFFN:
    generator = torch.Generator().manual_seed(seed)
    gate, up, down = torch.randn(3, d_ff, d_model, generator=generator) / d_model**0.5
    packed = PackedFFN(gate=gate, up=up, down=down, act=act)
    if dtype == "int8":
        return to_int8(packed)
    kind = getattr(torch, dtype)
    return dataclasses.replace(packed, gate=gate.to(kind), up=up.to(kind), down=down.to(kind))


def cuts_of(kind: str, d_ff: int) -> Cuts:
    spread = torch.linspace(0, 0.4, d_ff)
    return {
        "none": no_cuts(d_ff),
        "h": Cuts(gate=-1.0, h=spread),
        "gate": Cuts(gate=0.2, h=no_cuts(d_ff).h),
        "all inactive": Cuts(gate=-1.0, h=torch.full((d_ff,), float("inf"))),
    }[kind]


@settings(max_examples=60, deadline=None)
@given(
    d_model=st.integers(1, 300),
    d_ff=st.integers(1, 300),
    tokens=st.integers(1, MAX_TOKENS),
    act=st.sampled_from(sorted(ACT)),
    dtype=st.sampled_from(DTYPES),
    cuts=st.sampled_from(["none", "h", "gate", "all inactive"]),
    seed=st.integers(0, 99),
)
def test_sparse_and_dense_equal_the_plain_block(d_model, d_ff, tokens, act, dtype, cuts, seed):
    packed = random_block(d_model, d_ff, act=act, dtype=dtype, seed=seed)
    x = torch.randn(tokens, d_model, generator=torch.Generator().manual_seed(seed + 1))
    chosen = cuts_of(cuts, d_ff)
    block = CpuFFN(packed, chosen)
    torch.testing.assert_close(block.dense(x), ffn(packed, x, no_cuts(d_ff)), **TOLERANCE)
    if cuts != "none":  # a value within rounding of its cut may fall on either side of it
        h = hidden(packed, x, no_cuts(d_ff)).abs()
        gate = ACT[packed.act](x @ packed.floats()[0].T).abs()
        near = ((h - chosen.h).abs() < 1e-6) | ((gate - chosen.gate).abs() < 1e-6)
        if bool((near & (h > 0)).any()):
            return
    torch.testing.assert_close(block.sparse(x), ffn(packed, x, chosen), **TOLERANCE)


@settings(max_examples=40, deadline=None)
@given(
    d_model=st.integers(1, 300),
    d_ff=st.integers(1, 200),
    tokens=st.integers(1, MAX_TOKENS),
    bits=st.sampled_from([4, 8]),
    act=st.sampled_from(["relu", "silu"]),
    seed=st.integers(0, 99),
)
def test_predicted_set_is_that_of_the_plain_predictor(d_model, d_ff, tokens, bits, act, seed):
    packed = random_block(d_model, d_ff, act=act, seed=seed)
    x, sample = torch.randn(tokens + 64, d_model, generator=torch.Generator().manual_seed(seed)).split(
        [tokens, 64]
    )
    chosen = cuts_of("none" if act == "relu" else "h", d_ff)
    if not bool((hidden(packed, sample, chosen) != 0).any()):
        return
    predictor = build_predictor(packed, chosen, sample, bits=bits, recall=0.9)
    sizes, named = predictor.sizes(x, act), predictor.predict(x, act)
    if bool(((sizes - predictor.cuts).abs() <= 1e-5 * predictor.cuts.abs()).any()):
        return  # within rounding of a cut
    expected = (hidden(packed, x, chosen) * named) @ packed.floats()[2]
    block = CpuFFN(packed, chosen, predictor)
    torch.testing.assert_close(block.sparse(x), expected, **TOLERANCE)
    assert block.counts.gate == int(named.any(0).sum())


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_token_does_not_depend_on_its_batch(dtype):
    packed = random_block(200, 333, dtype=dtype)
    chosen = cuts_of("h", 333)
    x = torch.randn(8, 200)
    predictor = build_predictor(packed, chosen, torch.randn(64, 200), recall=0.8)
    for block in (CpuFFN(packed, chosen), CpuFFN(packed, chosen, predictor)):
        alone = torch.cat([block.sparse(row[None]) for row in x])
        torch.testing.assert_close(block.sparse(x), alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_reach_the_output(bad):
    packed = random_block(96, 64)
    predictor = build_predictor(packed, no_cuts(64), torch.randn(32, 96))
    x = torch.randn(3, 96)
    x[1, 5] = bad
    for block in (CpuFFN(packed, no_cuts(64)), CpuFFN(packed, no_cuts(64), predictor)):
        y = block.sparse(x)
        assert y[[0, 2]].isfinite().all()
        assert not y[1].isfinite().any()


def test_counts_are_the_rows_that_were_needed():
    packed = random_block(64, 500)
    chosen = Cuts(gate=-1.0, h=torch.full((500,), 0.1))
    x = torch.randn(1, 64)
    block = CpuFFN(packed, chosen)
    block.sparse(x)
    positive = int((x @ packed.gate.T > 0).sum())
    active = int((hidden(packed, x, chosen) != 0).sum())
    assert block.counts == (500, positive, active)
    assert block.bytes_read() == (500 + positive + active) * 64 * 4
    block.reset_counts()
    block.dense(x)
    assert block.counts == (500, 500, 500)  # also rows of down whose h is zero: dense is dense


def test_the_dtype_of_x_is_kept_and_no_token_gives_no_output():
    block = CpuFFN(random_block(64, 50, dtype="bfloat16"), no_cuts(50))
    assert block.sparse(torch.randn(2, 64, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert block.sparse(torch.empty(0, 64)).shape == (0, 64)


def test_too_many_tokens_and_float16_are_rejected():
    packed = random_block(64, 50)
    with pytest.raises(InputError, match="up to 8 tokens at once, got 9"):
        CpuFFN(packed, no_cuts(50)).sparse(torch.randn(9, 64))
    half = dataclasses.replace(packed, gate=packed.gate.half(), up=packed.up.half(), down=packed.down.half())
    with pytest.raises(InputError, match="got float16"):
        CpuFFN(half, no_cuts(50))


def test_two_runs_give_the_same_bits():
    packed = random_block(200, 1000)
    block = CpuFFN(packed, cuts_of("h", 1000))
    x = torch.randn(4, 200)
    first = block.sparse(x)
    assert all(torch.equal(block.sparse(x), first) for _ in range(5))


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_linear_equals_torch(kind):
    weight, bias, x = torch.randn(77, 130).to(kind), torch.randn(77), torch.randn(5, 130)
    expected = x @ weight.float().T + bias
    torch.testing.assert_close(CpuLinear(weight, bias)(x), expected, rtol=1e-4, atol=1e-4)
    assert CpuLinear(weight)(x[:1]).shape == (1, 77)
