"""The script of the study that packs a run for the package, and the example recipes."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from sparsing.demo import checkpoints
from sparsing.models.loading import load_model
from sparsing.training import read_train_config
from sparsing.training.run_checkpoints import complete_checkpoints

from ..helpers.tiny import build, tiny_tokenizer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """The module `demo` of the study, which is a folder of scripts."""
    before = [*sys.path]
    sys.path.insert(0, str(ROOT / "studies" / "nano"))
    yield importlib.import_module("demo")
    sys.path[:] = before


def test_packed_checkpoints_are_small_and_keep_their_training_state(script, tmp_path):
    from sparsing.training.run_checkpoints import mark_complete

    for step in (50, 200):
        folder = tmp_path / "run" / f"checkpoint-{step}"
        build("granite").save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
        (folder / "optimizer.pt").touch()
        mark_complete(folder, step, step * 10_000, "stable")
    packed = script.save_for_package(tmp_path / "run", tmp_path / "packed")
    assert [folder.name for folder in packed] == ["tokens-0.5M", "tokens-2M"]
    for ours, theirs in zip(packed, complete_checkpoints(tmp_path / "run"), strict=True):
        assert not (ours / "optimizer.pt").exists()
        assert (ours / "model.safetensors").stat().st_size < (
            theirs / "model.safetensors"
        ).stat().st_size * 0.6
        small, large = load_model(ours), load_model(theirs)
        assert (small.dtype, small.train_tokens) == ("float16", large.train_tokens)
        assert small.train_phase == large.train_phase == "stable"
        for a, b in zip(small.model.parameters(), large.model.parameters(), strict=True):
            assert torch.equal(a, b.half())


@pytest.mark.parametrize("path", sorted((ROOT / "examples" / "train").glob("*.toml")), ids=lambda p: p.stem)
def test_the_examples_are_complete_configurations(path):
    config = read_train_config(path)
    assert config.training.tokens >= 1_000_000


def test_the_recipe_has_the_shape_of_the_packaged_models():
    config, model = (
        read_train_config(ROOT / "examples" / "train" / "demo.toml").model,
        load_model(checkpoints("relu")[-1]).model,
    )
    assert config.num_parameters == sum(p.numel() for p in model.parameters())
    assert config.width_ratio == model.config.logits_scaling
    assert config.context == model.config.max_position_embeddings
