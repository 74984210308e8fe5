"""Files whose header is valid but lies about the model are refused with a clear error, and never crash the engine."""

from __future__ import annotations

import random

import numpy as np
import pytest

from sparsing.decode.engine import open_engine
from sparsing.decode.engine.rule import sparse_rule
from sparsing.errors import SparsityError
from sparsing.models.gguf_export import export_gguf
from sparsing.models.gguf_file import read_gguf

from ...helpers.gguf_models import build


def damage(rng, content, header):
    """A copy with one to three changes in the header, or with a piece of the weights overwritten."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 3))):
        width = rng.choice((1, 4, 8))
        at = (
            rng.randrange(4, header - width)
            if rng.random() < 0.9
            else rng.randrange(header, len(changed) - width)
        )
        value = rng.choice(
            (rng.getrandbits(8 * width), 0, 1, 2, 3, (1 << 8 * width) - 1, 0x7FC00000, 0xFF800000)
        )
        changed[at : at + width] = (value & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    return bytes(changed)


def try_damaged(tmp_path, files):
    """Open and decode damaged copies; returns the share that was refused."""
    path = export_gguf(
        build("granite relu", num_hidden_layers=1), tmp_path / "model.gguf", weight_type="Q4_0"
    )
    content, rng, refused = path.read_bytes(), random.Random(0), 0
    header = min(tensor.offset for tensor in read_gguf(path).tensors.values())
    for n in range(files):
        damaged = tmp_path / f"{n % 8}.gguf"
        damaged.unlink(missing_ok=True)  # the file before may still be mapped
        damaged.write_bytes(damage(rng, content, header))
        try:
            with open_engine(damaged, context=4, threads=1) as engine, np.errstate(all="ignore"):
                assert engine.read([5, 7]).shape == (96,)
                if engine.arch.act == "relu":
                    engine.rule = sparse_rule(engine.arch, engine.weights, None)
                    assert engine.read([5]).shape == (96,)
        except SparsityError:
            refused += 1
    return refused / files


def test_damaged_models_are_refused_or_decoded(tmp_path):
    assert 0.3 < try_damaged(tmp_path, 300) < 1


@pytest.mark.slow
def test_many_damaged_models_are_refused_or_decoded(tmp_path):
    assert 0.3 < try_damaged(tmp_path, 20_000) < 1
