"""The shapes by name: the paper's table, equal sizes where only width and depth differ, counts that models confirm."""

from __future__ import annotations

import csv

import pytest
import torch
from transformers import GraniteForCausalLM

from sparsing.models.paper_shapes import PRESETS
from sparsing.training.config_file import read_train_config
from sparsing.training.mup import make_granite_config


def test_the_papers_six_shapes(shared):
    rows = list(csv.DictReader((shared / "data" / "paper_models.csv").read_text("utf-8").splitlines()))
    assert len(rows) == 6
    for row in rows:
        model = read_train_config(preset=row["scale"], overrides={"training.tokens": 10**10}).model
        names = ("d_model", "n_layers", "d_ff", "n_heads", "n_kv_heads")
        assert [getattr(model, name) for name in names] == [int(row[name]) for name in names]
        assert model.vocab_size == int(row["vocab"])
        preset = PRESETS[row["scale"]]
        assert preset.block_parameters == pytest.approx(float(row["non_embedding_params"]), rel=0.01)
        assert preset.batch_tokens == pytest.approx(float(row["batch_tokens"]), rel=0.01)


def test_the_papers_nine_shapes_have_one_size():
    nine = [PRESETS[name] for name in PRESETS if name.startswith("0.1B-")]
    assert len(nine) == 9
    ratios = sorted(preset.d_model / preset.n_layers for preset in nine)
    assert (ratios[0], ratios[-1]) == (pytest.approx(512 / 36), pytest.approx(1792 / 3))
    assert {74, 113, 281} <= {int(ratio) for ratio in ratios}
    sizes = [preset.block_parameters for preset in nine]
    assert max(sizes) / min(sizes) < 1.07


def test_the_nano_shapes():
    grid = [PRESETS[name] for name in PRESETS if name.startswith("nano-") and name.endswith("M")]
    assert {preset.d_model / preset.n_layers for preset in grid} == {48.0}
    assert 0.3e6 < min(p.parameters for p in grid) < 0.35e6
    assert 9e6 < max(p.parameters for p in grid) < 10e6
    shapes = [PRESETS[name] for name in PRESETS if name.startswith("nano-") and "x" in name]
    sizes = [preset.block_parameters for preset in shapes]
    assert len(shapes) == 7
    assert max(sizes) / min(sizes) < 1.07


@pytest.mark.parametrize("name", ["0.1B", "0.1B-1792x3", "nano-0.3M", "nano-64x15"])
def test_counted_parameters_are_those_of_the_model(name):
    config = read_train_config(preset=name, overrides={"training.tokens": 10**9})
    with torch.device("meta"):
        model = GraniteForCausalLM(make_granite_config(config.model))
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == config.model.num_parameters
    norms = sum(p.numel() for n, p in model.named_parameters() if "norm" in n)
    assert count - norms == PRESETS[name].parameters
