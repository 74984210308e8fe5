"""Weights that do not fit get a sentence of their own: pointers, prefixes of wrappers, other sizes."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from sparsing.errors import InputError
from sparsing.models.loading import load_model

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 2948\n"


@pytest.fixture
def folder(tiny_checkpoint, tmp_path):
    return shutil.copytree(tiny_checkpoint, tmp_path / "model")


@pytest.mark.parametrize("sharded", [False, True])
def test_pointers_of_git_lfs(folder, sharded):
    file = folder / "model.safetensors"
    if sharded:
        index = {"weight_map": {"model.norm.weight": "model-00001-of-00001.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        file = file.rename(folder / "model-00001-of-00001.safetensors")
    file.write_text(POINTER)
    with pytest.raises(InputError, match="is a Git LFS pointer and not the file itself; run `git lfs pull`"):
        load_model(folder)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "_fsdp_wrapped_module."])
def test_prefixes_of_wrapped_models(folder, prefix):
    path = folder / "model.safetensors"
    tensors = {prefix + name: value for name, value in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(
        InputError, match=rf"have the prefix '{prefix}' of a wrapped model.*save the inner model"
    ):
        load_model(folder)


def test_a_tensor_of_another_size(folder):
    path = folder / "model.safetensors"
    name = "model.layers.1.mlp.down_proj.weight"
    save_file(load_file(path) | {name: torch.zeros(32, 80)}, path, metadata={"format": "pt"})
    with pytest.raises(
        InputError,
        match=r"down_proj.weight .* shape \(32, 80\), but by config.json it has \(32, 96\)",
    ):
        load_model(folder)
