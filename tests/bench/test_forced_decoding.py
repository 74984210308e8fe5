"""`generate()` writes the forced text, and every token but the first is timed."""

from __future__ import annotations

import torch

from sparsing.bench.forced_decoding import hugging_face_seconds
from sparsing.bench.planted_model import build_model


def test_generate_writes_the_forced_text(small_shape):
    model = build_model(small_shape, "float32", context=256)
    ids = torch.randint(3, 320, (12,), generator=torch.Generator().manual_seed(2)).tolist()
    assert len(hugging_face_seconds(model, ids, 5)) == 6  # seven are written, the first is not timed
