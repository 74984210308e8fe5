"""The published checkpoints: names, shapes against the paper's table, and the command that lists them."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM

from sparsing.cli import main
from sparsing.models.minicpm import granite_config
from sparsing.models.published import PUBLISHED

from ..helpers.tiny import SIZES


def test_five_scales_with_two_activations():
    names = [checkpoint.name for checkpoint in PUBLISHED]
    assert len(set(names)) == 10
    assert "SparseLLM/sparsing-law-0.1b-relu" in names
    assert "SparseLLM/sparsing-law-1.2b-silu" in names


def test_shapes_are_the_papers(shared):
    with (shared / "data/paper_models.csv").open(encoding="utf-8") as file:
        rows = {row["scale"].lower(): row for row in csv.DictReader(file)}
    for checkpoint in PUBLISHED:
        row = rows[checkpoint.scale]
        for key in ("d_model", "n_layers", "d_ff", "n_heads"):
            assert getattr(checkpoint, key) == int(row[key])
        assert checkpoint.non_embedding_params == float(row["non_embedding_params"])


@pytest.mark.parametrize("checkpoint", PUBLISHED[::2], ids=lambda checkpoint: checkpoint.scale)
def test_the_parameter_count_follows_from_the_shape(checkpoint):
    config = granite_config(
        {
            **{"hidden_size": checkpoint.d_model, "intermediate_size": checkpoint.d_ff, "vocab_size": 122753},
            **{"num_hidden_layers": checkpoint.n_layers, "num_attention_heads": checkpoint.n_heads},
            **{"hidden_act": checkpoint.activation, "dim_model_base": 256, "scale_depth": 1.4},
        }
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    embedding = model.get_input_embeddings().weight.numel()
    count = sum(parameter.numel() for parameter in model.parameters()) - embedding
    assert count == pytest.approx(checkpoint.non_embedding_params, rel=0.01)
    assert [layer.mlp.down_proj.in_features for layer in model.model.layers] == [
        checkpoint.d_ff
    ] * checkpoint.n_layers


def test_the_command_lists_checkpoints_and_every_model_type(capsys):
    assert main(["models", "--json"]) == 0
    listing = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in listing["published"]] == [checkpoint.name for checkpoint in PUBLISHED]
    statuses = {row["name"]: row["status"] for row in listing["model_types"]}
    assert {statuses[name] for name in SIZES} == {"passes"}
    causal = [row["status"] for row in listing["model_types"] if not row["composite"]]
    assert listing["counts"]["passes"] == causal.count("passes") >= 130
    assert sum(listing["counts"].values()) == len(causal)
    assert all((row["status"] == "passes") == (not row["reason"]) for row in listing["model_types"])
    assert main(["models"]) == 0
    table = capsys.readouterr().out
    assert all(checkpoint.name in table for checkpoint in PUBLISHED)
    assert "1180M" in table
    assert str(listing["counts"]["passes"]) in table


def test_the_command_does_not_import_torch():
    code = (
        "import sys; from sparsing.cli import main; main(['models']);"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
