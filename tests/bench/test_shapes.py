"""Named shapes agree with the paper's table of models."""

from __future__ import annotations

import csv

from sparsing.bench.shapes import SHAPES


def test_shapes_of_the_paper_as_published(shared):
    with (shared / "data" / "paper_models.csv").open() as file:
        for row in csv.DictReader(file):
            shape = SHAPES[row["scale"]]
            for field in ("d_model", "n_layers", "d_ff", "n_heads", "n_kv_heads", "head_dim"):
                assert getattr(shape, field) == int(row[field])
            assert shape.vocab_size == int(row["vocab"])
