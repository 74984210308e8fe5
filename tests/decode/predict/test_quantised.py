"""The quantised predictor of one block: its codes, its recall on the calibration tokens, and its bytes."""

from __future__ import annotations

import pytest
import torch

from sparsing.decode.kernels.cuts import Cuts, no_cuts
from sparsing.decode.kernels.packing import PackedFFN
from sparsing.decode.kernels.plain import hidden
from sparsing.decode.predict.quantised import build_predictor, quantise_rows, quantise_tokens, recall_of
from sparsing.errors import InputError


def block(act: str = "relu") -> PackedFFN:
    gate, up, down = torch.randn(3, 400, 256, generator=torch.Generator().manual_seed(3)) / 16
    return PackedFFN(gate=gate, up=up, down=down, act=act)


def mass(packed: PackedFFN, x: torch.Tensor, cuts: Cuts) -> torch.Tensor:
    return hidden(packed, x, cuts).abs() * packed.column_norms()


@pytest.mark.parametrize("bits", [4, 8])
def test_codes_are_within_half_a_step(bits):
    rows = torch.randn(5, 200)  # not whole groups of 128
    codes, scales = quantise_rows(rows, bits)
    assert codes.shape == (5, 2 * 128 * bits // 8)
    if bits == 4:
        halves = codes.view(5, 2, 64)
        codes = torch.cat([halves & 15, halves >> 4], 2)
    values = (codes.view(5, 2, 128).float() - 2 ** (bits - 1)) * scales.float()[..., None]
    error = (values.flatten(1)[:, :200] - rows).abs()
    step = scales.float().repeat_interleave(128, 1)[:, :200]
    assert (error <= 0.5 * step + 0.01 * rows.abs()).all()  # a scale has bfloat16's 8 bits
    assert (values.flatten(1)[:, 200:] == 0).all()


def test_tokens_are_scaled_by_their_largest_value():
    codes, scale = quantise_tokens(
        torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0], [1.0, float("nan"), 0.0]])
    )
    assert codes[:2].tolist() == [[64, -127, 32], [0, 0, 0]]
    assert scale[0] == pytest.approx(2 / 127)
    assert scale[1] == 0
    assert scale[2].isnan()


@pytest.mark.parametrize("act", ["relu", "silu"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("wanted", [0.9, 0.995])
def test_recall_on_calibration_tokens_is_the_wanted_recall(act, bits, wanted):
    packed, x = block(act), torch.randn(300, 256, generator=torch.Generator().manual_seed(5))
    cuts = Cuts(gate=-1.0, h=torch.full((400,), 0.5))
    predictor = build_predictor(packed, cuts, x, bits=bits, recall=wanted)
    active_mass = mass(packed, x, cuts)
    assert (predictor.up_codes is None) == (act == "relu")
    assert wanted <= recall_of(predictor.predict(x, act), active_mass) < wanted + 0.003


def test_more_bits_select_fewer_neurons_for_the_same_recall():
    packed, x = block(), torch.randn(300, 256, generator=torch.Generator().manual_seed(6))
    cuts = Cuts(gate=0.8, h=no_cuts(400).h)
    named = [build_predictor(packed, cuts, x, bits=bits).predict(x, "relu").float().mean() for bits in (4, 8)]
    active = (mass(packed, x, cuts) > 0).float().mean()
    assert named[0] > named[1] > 0.95 * active


def test_a_recall_of_one_loses_no_mass():
    packed, x = block(), torch.randn(100, 256)
    predictor = build_predictor(packed, no_cuts(400), x, recall=1.0)
    assert recall_of(predictor.predict(x, "relu"), mass(packed, x, no_cuts(400))) == 1.0


def test_all_neurons_are_predicted_for_a_token_that_is_not_finite():
    predictor = build_predictor(block(), no_cuts(400), torch.randn(50, 256))
    x = torch.full((1, 256), float("nan"))
    assert predictor.predict(x, "relu").all()


def test_bytes_of_a_pass():
    predictor = build_predictor(block("silu"), no_cuts(400), torch.randn(50, 256))
    assert predictor.copy_bytes == 2 * 400 * (256 // 2 + 2 * 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"bits": 5}, "bits must be 4 or 8, got 5"), ({"recall": 0.0}, r"recall must be in \(0, 1\], got 0.0")],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        build_predictor(block(), no_cuts(400), torch.randn(4, 256), **options)


def test_a_sample_without_active_neurons_is_rejected():
    nothing = Cuts(gate=-1.0, h=torch.full((400,), 1e9))
    with pytest.raises(InputError, match="no neuron is active"):
        build_predictor(block(), nothing, torch.randn(4, 256))
