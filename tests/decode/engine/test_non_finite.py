"""A NaN or an overflow ends decoding of a GGUF file with the token and the layer in which it began."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparsing.decode.engine import open_engine
from sparsing.decode.engine.choose import choose_ways
from sparsing.decode.engine.rule import sparse_rule
from sparsing.decode.engine.writing import write
from sparsing.errors import NonFiniteError
from sparsing.models.gguf_export import export_gguf

from ...helpers.gguf_models import IDS, build

BAD = 95
"""A token that is not in `IDS`."""
assert BAD not in IDS


def changed(tmp_path, change):
    """A model of three layers whose token `BAD` is changed."""
    model = build("llama relu", num_hidden_layers=3)
    change(model)
    return export_gguf(model, tmp_path / "model.gguf", weight_type="F32")


def value_that_overflows(model):
    """A value of layer 1 beyond 65504: the cache of keys and values is float16."""
    with torch.no_grad():
        model.model.embed_tokens.weight[BAD] = 0
        model.model.embed_tokens.weight[BAD, 3] = 1e4
        model.model.layers[1].self_attn.v_proj.weight[:, 3] = 1.5e4  # other tokens stay below


def broken_weight(model):
    with torch.no_grad():
        model.model.layers[2].self_attn.o_proj.weight[7, 5] = torch.nan


def broken_head(model):
    with torch.no_grad():
        model.lm_head.weight[:] = torch.inf


@pytest.mark.parametrize("threads", [1, 2])
def test_a_value_beyond_float16(tmp_path, threads):
    with open_engine(changed(tmp_path, value_that_overflows), context=32, threads=threads) as engine:
        fine = engine.read(IDS)
        message = r"token 13 of 15: the output of layer 1 \(blk.1\) is NaN or infinite. .*65504"
        with pytest.raises(NonFiniteError, match=message):
            engine.read([IDS[0], BAD, IDS[1]])
        assert engine.position == 0
        np.testing.assert_array_equal(engine.read(IDS), fine)


@pytest.mark.parametrize("sparse", [False, True])
def test_a_broken_weight(tmp_path, sparse):
    with open_engine(changed(tmp_path, broken_weight), context=32, threads=1) as engine:
        if sparse:
            engine.rule = sparse_rule(engine.arch, engine.weights, None)
        with pytest.raises(NonFiniteError, match=r"token 0 of 12: the output of layer 2 \(blk.2\) is NaN"):
            engine.read(IDS)
        with pytest.raises(NonFiniteError, match=r"token 0 of 1: the output of layer 2"):
            choose_ways(engine, IDS)


def test_the_head(tmp_path):
    with (
        open_engine(changed(tmp_path, broken_head), context=32, threads=1) as engine,
        pytest.raises(NonFiniteError, match="token 11 of 12: the logits are NaN or infinite"),
    ):
        write(engine, IDS, max_new_tokens=3)
