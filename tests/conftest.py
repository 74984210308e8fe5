"""What all tests share: one thread, no network, the tiny models of `tiny.py`, the `../shared` material."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: no test may reach the hub

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported: its own functions read it too

from .helpers.tiny import save_checkpoint, tiny_input, tiny_model

torch.set_num_threads(1)  # the models are tiny: more threads only wait for each other

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder `../shared`; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the reference material in {SHARED.name}/ beside the repository")
    return SHARED


@pytest.fixture(scope="session", name="tiny_model")
def _tiny_model():
    """`tiny_model(model_type)`: a random model in eval mode, built once per session."""
    return tiny_model


@pytest.fixture(scope="session", name="tiny_input")
def _tiny_input():
    """`tiny_input(batch, length, seed=0)`: random token ids below the tiny vocabulary."""
    return tiny_input


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    """A folder with a tiny Llama in safetensors and its tokenizer; shared, so copy it before changing it."""
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny-llama", tiny_model("llama"))


@pytest.fixture(scope="session")
def bench(shared) -> Path:
    """The folder with items of the fourteen tasks."""
    if not (shared / "bench").is_dir():
        pytest.skip("needs the benchmark items in shared/bench")
    return shared / "bench"


@pytest.fixture(scope="session")
def read_jsonl():
    """`read_jsonl(path)`: the objects of a file, one a line."""
    return lambda path: [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@pytest.fixture(scope="session")
def stories_folder(shared) -> Path:
    """A trained model of five layers, 260 thousand parameters and 512 positions."""
    folder = shared / "models" / "stories260K"
    if not folder.is_dir():
        pytest.skip("needs the model shared/models/stories260K")
    return folder


@pytest.fixture(scope="session")
def lm_eval():
    return pytest.importorskip("lm_eval", reason="needs lm-eval: pip install 'sparsing[eval]'")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, check=False
        )
        if os.geteuid() == 0
        else None
    )
    if done is None or done.returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
