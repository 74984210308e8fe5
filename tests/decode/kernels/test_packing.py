"""Packed weights compute what the model's block computes, for every gated family; copies on huge pages and in int8."""

from __future__ import annotations

import pytest
import torch

from sparsing import find_sites
from sparsing.decode.kernels.cuts import layer_cuts, no_cuts
from sparsing.decode.kernels.packing import PackedFFN, pack, to_int8
from sparsing.decode.kernels.pages import PAGE, HugePages, copy_to_huge_pages
from sparsing.decode.kernels.plain import ffn
from sparsing.errors import InputError, UnsupportedModelError
from sparsing.rules.thresholds import Thresholds

from ...helpers.tiny import SIZES


@pytest.mark.parametrize("model_type", sorted(SIZES))
def test_the_packed_block_is_the_block(model_type, tiny_model):
    model = tiny_model(model_type)
    sites = find_sites(model)
    if not sites[0].projections:
        pytest.skip("a block without a gate has no kernel")
    for site in sites:
        packed = pack(site)
        x = torch.randn(5, packed.d_model)
        block = model.get_submodule(site.block)
        torch.testing.assert_close(
            ffn(packed, x, no_cuts(packed.d_ff)), block(x[None])[0], rtol=1e-5, atol=1e-6
        )
        assert packed.gate.data_ptr() == site.projections[0].weight.data_ptr()  # a view


def test_a_block_without_a_gate_is_rejected(tiny_model):
    with pytest.raises(UnsupportedModelError, match="gated blocks"):
        pack(find_sites(tiny_model("opt"))[0])


def test_int8_is_within_half_a_step():
    packed = PackedFFN(gate=torch.randn(9, 40), up=torch.randn(9, 40), down=torch.randn(9, 40), act="relu")
    small = to_int8(packed)
    assert small.neuron_bytes == 3 * 40 + 12
    for exact, rounded, scale in zip(packed.floats(), small.floats(), small.scales, strict=True):
        assert ((exact - rounded).abs() <= 0.5001 * scale[:, None]).all()


@pytest.mark.parametrize("on", ["gate", "h", "neuron_norm"])
def test_cuts_are_those_of_the_rule(on):
    packed = PackedFFN(gate=torch.randn(6, 4), up=torch.randn(6, 4), down=torch.randn(6, 4), act="silu")
    thresholds = Thresholds(rule="x", level=0.0, on=on, values=(0.1, 0.5))
    cuts = layer_cuts(packed, thresholds, 0.5)
    assert cuts.gate == (0.5 if on == "gate" else -1)
    expected = {
        "gate": torch.full((6,), -1.0),
        "h": torch.full((6,), 0.5),
        "neuron_norm": 0.5 / packed.down.norm(dim=1),
    }
    torch.testing.assert_close(cuts.h, expected[on])


def test_top_k_is_rejected():
    packed = PackedFFN(gate=torch.randn(6, 4), up=torch.randn(6, 4), down=torch.randn(6, 4), act="silu")
    with pytest.raises(InputError, match="skip neurons by threshold"):
        layer_cuts(packed, Thresholds(rule="top_k", level=0.5, on="gate", select="top_k", values=(0.5,)), 0.5)


@pytest.mark.parametrize("size", [10, PAGE])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.uint8])
def test_a_copy_on_huge_pages_is_equal_and_separate(size, kind):
    tensor = (torch.arange(size) % 100).to(kind).view(2, -1)
    copy = copy_to_huge_pages(tensor)
    assert torch.equal(copy, tensor)
    assert copy.data_ptr() != tensor.data_ptr()
    assert size < PAGE or copy.data_ptr() % PAGE == 0


@pytest.mark.parametrize("reserved", [1000, 2 * PAGE])
def test_pieces_of_huge_pages_start_on_lines_and_do_not_overlap(reserved):
    pages = HugePages(reserved)
    pieces = [pages.take(size) for size in (1, 64, 100, 0, 300)]
    for number, piece in enumerate(pieces):
        assert piece.ctypes.data % 64 == 0
        piece[:] = number
    for number, piece in enumerate(pieces):
        assert (piece == number).all()
    with pytest.raises(AssertionError, match="too small"):
        pages.take(2 * reserved)
