"""Blocks of every kind and type of weights against plain PyTorch on the dequantised weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from sparsing.decode.engine import open_engine
from sparsing.decode.engine.basics import wait_for_all
from sparsing.decode.engine.feed_forward import DENSE, dense_block, sparse_block
from sparsing.decode.engine.ggml import dequantised
from sparsing.decode.engine.neuron_rows import quantised_columns
from sparsing.decode.engine.rule import sparse_rule
from sparsing.decode.engine.weights import ADDRESS, COLUMNS, DOWN, GATE, ROWS, TO_FLOAT, UP
from sparsing.models.gguf_export import export_gguf
from sparsing.rules.thresholds import Thresholds

from ...helpers.gguf_models import FILE_TYPES, build, error, requantised

D_MODEL, D_FF = 256, 512
KINDS = {"llama": "silu", "llama relu": "relu", "gemma": "gelu_tanh", "arcee (relu2 without gate)": "relu2"}
PLAIN = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
ACTS = {
    "silu": torch.nn.functional.silu,
    "relu": torch.relu,
    "relu2": lambda x: torch.relu(x) ** 2,
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
}


@njit
def run_block(sparse, layer, states):
    s = states[0]
    if sparse:
        sparse_block(0, layer, s)
    else:
        dense_block(0, layer, s)
    wait_for_all(0, s)


def write(folder, kind, weight_type):
    """A file of 3 layers; K-quants are made by llama.cpp from float16."""
    model = build(kind, hidden_size=D_MODEL, intermediate_size=D_FF, num_hidden_layers=3)
    if weight_type in PLAIN:
        return export_gguf(model, folder / "plain.gguf", weight_type=weight_type)
    return requantised(model, folder, weight_type)


def matrices_of(engine, layer):
    """Dequantised gate (or None), up and down as tensors."""
    found = []
    for place in (GATE, UP, DOWN):
        fields = engine.weights.matrices[layer, place]
        shape = int(fields[ROWS]), int(fields[COLUMNS])
        values = dequantised(int(fields[ADDRESS]), int(fields[TO_FLOAT]), shape) if fields[ADDRESS] else None
        found.append(None if values is None else torch.from_numpy(values))
    return found


def h_of(engine, layer, x):
    """`h` of all neurons."""
    gate, up, _ = matrices_of(engine, layer)
    act = ACTS[engine.arch.act]
    return act(up @ x) if gate is None else act(gate @ x) * (up @ x)


@pytest.mark.parametrize("weight_type", [*PLAIN, *FILE_TYPES])
@pytest.mark.parametrize("kind", KINDS)
def test_block_of_every_kind_and_type(tmp_path, kind, weight_type):
    x = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(1))
    with open_engine(write(tmp_path, kind, weight_type), context=4, threads=1) as engine:
        assert engine.arch.act == KINDS[kind]
        layer = 2
        h, down = h_of(engine, layer, x), matrices_of(engine, layer)[2]
        cut = float(h.abs().quantile(0.8))
        values = {f"model.layers.{n}.mlp.down_proj": cut for n in range(3)}
        engine.rule = sparse_rule(
            engine.arch, engine.weights, Thresholds(rule="fat", level=cut, on="h", values=values)
        )
        engine.array("normed")[0] = x.numpy()
        states = engine._state.records
        run_block(True, layer, states)
        sparse = engine.array("parts")[0, :D_MODEL].copy()
        engine.array("ways")[:] = DENSE
        run_block(False, layer, states)
        masked, active = engine.array("out").copy(), torch.from_numpy(engine.array("h") != 0)
        # inputs are 8-bit codes, so a neuron near its threshold may be on the other side
        limit = 1e-4 if weight_type == "F32" else 3e-2
        sure = (h.abs() - cut).abs() > 3 * limit * h.norm() / D_FF**0.5
        torch.testing.assert_close(active[sure], (h.abs() > cut)[sure])
        wanted = down @ torch.where(active, h, 0)
        assert error(masked, wanted) < limit
        assert error(sparse, wanted) < limit + 1e-2
        assert error(sparse, masked) < 1.5e-2  # the error of the copy of down
        read = engine.array("rows_read")[0, layer]
        assert 0.1 * D_FF < read[2] / 2 < 0.3 * D_FF
        engine.array("h_cuts")[:] = -1
        run_block(False, layer, states)
        assert error(engine.array("out"), down @ h) < limit


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 40),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 1e-30, 1.0, 1e30]),
)
def test_copy_of_down_is_within_half_a_step(d_model, d_ff, seed, size):
    down = (np.random.default_rng(seed).standard_normal((d_model, d_ff)) * size).astype(np.float32)
    codes, scales, relative = quantised_columns(down)
    assert codes.shape == (d_ff, -(-d_model // 32) * 32)
    values = (codes.reshape(d_ff, -1, 32) * scales[:, :, None]).reshape(d_ff, -1)[:, :d_model].T
    steps = np.repeat(scales, 32, axis=1)[:, :d_model].T
    assert (np.abs(values - down) <= 0.5001 * steps + 1e-38).all()
    assert 0 <= relative < 0.02
