"""Adapters are merged into the base model: by `adapter=`, or from a folder that holds only the adapter."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from sparsing.errors import InputError, UnsupportedModelError
from sparsing.models.loading import load_model
from sparsing.sites.effective_weight import is_plain
from sparsing.training.tracking import find_checkpoints

from ..helpers.tiny import build

peft = pytest.importorskip("peft", reason="needs peft: pip install 'sparsing[adapters]'")
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


@pytest.fixture
def adapter(tmp_path, tiny_checkpoint):
    """A folder as the Trainer saves it for a LoRA run, and the merged model."""
    torch.manual_seed(1)
    config = peft.LoraConfig(r=4, lora_alpha=64, target_modules=["down_proj"], init_lora_weights=False)
    model = peft.get_peft_model(build("llama"), config)
    model.peft_config["default"].base_model_name_or_path = str(tiny_checkpoint)
    folder = tmp_path / "run" / "checkpoint-30"
    model.save_pretrained(folder)
    (folder / "trainer_state.json").write_text('{"global_step": 30, "num_input_tokens_seen": 960}')
    return folder, model.merge_and_unload()


def logits(model, ids) -> torch.Tensor:
    with torch.no_grad():
        return model(ids, use_cache=False).logits


@pytest.mark.parametrize("way", ["alone", "with its base"])
def test_an_adapter_is_merged(way, adapter, tiny_checkpoint, tiny_input):
    folder, merged = adapter
    loaded = load_model(folder) if way == "alone" else load_model(tiny_checkpoint, adapter=folder)
    torch.testing.assert_close(logits(loaded.model, tiny_input()), logits(merged, tiny_input()))
    assert all(is_plain(site.down_proj) for site in loaded.sites)
    assert (loaded.train_step, loaded.train_tokens) == (30, 960)
    assert loaded.name == (str(folder) if way == "alone" else f"{tiny_checkpoint} + {folder}")


def test_tracking_finds_checkpoints_of_an_adapter(adapter):
    assert find_checkpoints(adapter[0].parent) == [adapter[0]]


def test_an_adapter_of_another_model_is_refused(adapter, tmp_path, tiny_checkpoint):
    folder, _ = adapter
    other = tmp_path / "other"
    build("llama", num_hidden_layers=1).save_pretrained(other)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_checkpoint / name, other)
    with pytest.raises(InputError, match=r"2 tensors that the model has no place for"):
        load_model(other, adapter=folder)


def test_a_folder_that_is_no_adapter(tiny_checkpoint, adapter):
    folder, _ = adapter
    with pytest.raises(InputError, match=r"no adapter_config.json in"):
        load_model(tiny_checkpoint, adapter=tiny_checkpoint)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no adapter_model.safetensors in"):
        load_model(folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": None}))
    with pytest.raises(InputError, match="names no base model; give the base model as MODEL"):
        load_model(folder)


def test_an_adapter_of_virtual_tokens_is_refused(tmp_path, tiny_checkpoint):
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    peft.get_peft_model(build("llama"), config).save_pretrained(tmp_path / "prompt")
    with pytest.raises(UnsupportedModelError, match="a PROMPT_TUNING adapter does not act"):
        load_model(tiny_checkpoint, adapter=tmp_path / "prompt")
