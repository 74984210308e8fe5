"""Loading: what is accepted, what each refusal says, and that nothing is printed or fetched on the way."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
import socket
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from sparsing.base.provenance import Provenance
from sparsing.errors import InputError, UnsupportedModelError
from sparsing.models.loading import LoadedModel, load_model

from ..helpers.model_types import small_model
from ..helpers.tiny import build, save_checkpoint, tiny_input, tiny_tokenizer


@pytest.fixture
def folder(tiny_checkpoint, tmp_path) -> Path:
    """A copy of the tiny checkpoint that the test may break."""
    return shutil.copytree(tiny_checkpoint, tmp_path / "model")


def edit_config(folder: Path, **changes) -> Path:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return folder


def state(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def as_bin(folder: Path, content: object, **options) -> Path:
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin", **options)
    return folder


def logits(loaded: LoadedModel) -> torch.Tensor:
    with torch.no_grad():
        return loaded.model(tiny_input()).logits


class Trap:
    """A pickle that leaves a mark when it is opened carelessly."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_the_loaded_model_is_the_saved_one(tiny_checkpoint, tiny_model):
    loaded = load_model(tiny_checkpoint, device="cpu")
    with torch.no_grad():
        assert torch.equal(logits(loaded), tiny_model("llama")(tiny_input()).logits)
    assert not loaded.model.training
    assert len(loaded.sites) == 2
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("a b\n", add_special_tokens=False)) == "a b\n"
    assert (loaded.model_type, loaded.dtype, loaded.device) == ("llama", "float32", "cpu")
    assert loaded.num_parameters == 32928
    assert loaded.revision is loaded.train_step is loaded.train_tokens is None


def test_provenance_takes_the_fields(tiny_checkpoint):
    provenance = Provenance(**load_model(tiny_checkpoint, device="cpu").provenance())
    assert provenance.model == str(tiny_checkpoint)
    assert provenance.num_parameters == 32928


def test_a_local_folder_is_loaded_in_silence_and_without_the_network(
    tiny_checkpoint, monkeypatch, capfd, caplog
):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was used"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    before = transformers.logging.get_verbosity()
    load_model(tiny_checkpoint, device="cpu")
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert transformers.logging.get_verbosity() == before
    assert transformers.logging.is_progress_bar_enabled()


def test_dtype_is_the_configs_unless_asked_for(folder):
    edit_config(folder, dtype=None, torch_dtype="bfloat16")
    assert load_model(folder, device="cpu").dtype == "bfloat16"
    assert load_model(folder, device="cpu", dtype=torch.float32).dtype == "float32"
    assert load_model(folder, device="cpu", dtype="float64").dtype == "float64"
    with pytest.raises(
        InputError,
        match=r"unknown dtype 'int8'.* Available: float32, float64, bfloat16, float16; leave it out",
    ):
        load_model(folder, dtype="int8")


def test_a_device_that_is_not_there_is_named(folder):
    with pytest.raises(InputError, match="device 'cuda:99' cannot be used"):
        load_model(folder, device="cuda:99")
    with pytest.raises(InputError, match="device 'gpu' cannot be used"):
        load_model(folder, device="gpu")


def test_device_auto_gives_the_same_model(tiny_checkpoint):
    pytest.importorskip("accelerate", reason="needs accelerate: pip install 'sparsing[auto]'")
    loaded = load_model(tiny_checkpoint, device="auto")
    plain = load_model(tiny_checkpoint, device="cpu")
    torch.testing.assert_close(logits(loaded).cpu(), logits(plain))


def test_device_auto_without_accelerate_tells_how_to_get_it(tiny_checkpoint, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install .*\[auto\]'"):
        load_model(tiny_checkpoint, device="auto")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_bin_of_tensors_gives_the_logits_of_the_safetensors(folder, tiny_checkpoint, caplog, zipped):
    as_bin(folder, state(folder), _use_new_zipfile_serialization=zipped)
    assert torch.equal(
        logits(load_model(folder, device="cpu")), logits(load_model(tiny_checkpoint, device="cpu"))
    )
    assert "opened for its tensors only" in caplog.text


def test_safetensors_come_first(folder, caplog):
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    load_model(folder, device="cpu")
    assert not caplog.records


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_shards_are_loaded_and_a_missing_one_is_named(folder, tiny_checkpoint, kind):
    tensors = state(folder)
    (folder / "model.safetensors").unlink()
    stem, save = ("pytorch_model", torch.save) if kind == "bin" else ("model", save_file)
    names = [f"{stem}-{i}-of-00002.{kind}" for i in ("00001", "00002")]
    keys = sorted(tensors)
    save({key: tensors[key] for key in keys[::2]}, folder / names[0])
    save({key: tensors[key] for key in keys[1::2]}, folder / names[1])
    index = {"metadata": {"total_size": 1}, "weight_map": {k: names[i % 2] for i, k in enumerate(keys)}}
    (folder / f"{stem}.{kind}.index.json").write_text(json.dumps(index))
    assert torch.equal(
        logits(load_model(folder, device="cpu")), logits(load_model(tiny_checkpoint, device="cpu"))
    )
    (folder / names[1]).unlink()
    with pytest.raises(InputError, match=f"lacks 1 of 2 files of weights, the first: {names[1]}"):
        load_model(folder)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_bin_with_code_in_it_is_refused_and_not_run(folder, tmp_path, zipped):
    mark = tmp_path / "opened"
    as_bin(folder, state(folder) | {"extra": Trap(mark)}, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsupportedModelError, match=r"holds more than tensors.*weights_only=True"):
        load_model(folder, device="cpu")
    assert not mark.exists()


@pytest.mark.parametrize(
    "name", ["consolidated.pth", "model.pt", "model.pkl", "epoch.ckpt", "training_args.bin"]
)
def test_any_other_pickle_is_refused(folder, tmp_path, name):
    mark = tmp_path / "opened"
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(UnsupportedModelError, match=f"only a free pickle .{name}.*save_pretrained"):
        load_model(folder)
    if name != "training_args.bin":
        with pytest.raises(UnsupportedModelError, match="is a pickle, and pickles are not opened"):
            load_model(folder / name)
    assert not mark.exists()


def test_weights_in_another_form_are_named(folder):
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    with pytest.raises(
        UnsupportedModelError, match=r"has consolidated.safetensors; wanted: model.safetensors"
    ):
        load_model(folder)


def test_missing_parts_are_named(folder, tmp_path):
    with pytest.raises(InputError, match=r"no folder './nowhere'"):
        load_model("./nowhere")
    with pytest.raises(InputError, match="neither a local folder nor a model"):
        load_model("nobody/nothing")
    with pytest.raises(InputError, match=r"config.json' is a file; give the folder"):
        load_model(folder / "config.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no config.json in .*found: nothing"):
        load_model(tmp_path / "empty")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no weights in"):
        load_model(folder)


def test_a_broken_config_is_named(folder):
    edit_config(folder, num_attention_heads="many")
    with pytest.raises(InputError, match=r"is not a valid llama configuration: .*num_attention_heads"):
        load_model(folder)
    edit_config(folder, model_type=None)
    with pytest.raises(InputError, match="has no model_type"):
        load_model(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        load_model(folder)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_truncated_weights_are_named(folder, kind):
    if kind == "bin":
        as_bin(folder, state(folder))
    path = next(folder.glob(f"*.{kind}"))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be loaded"):
        load_model(folder)


def test_weights_of_another_shape_or_architecture_are_named(folder):
    edit_config(folder, intermediate_size=64)
    with pytest.raises(InputError, match=r"gate_proj.weight .* has the shape"):
        load_model(folder)
    edit_config(folder, intermediate_size=96, num_hidden_layers=3)
    with pytest.raises(InputError, match=r"lack 9 parameters, the first: model.layers.2"):
        load_model(folder)


def test_tensors_that_are_not_used_are_told(folder, caplog):
    edit_config(folder, num_hidden_layers=1)
    with caplog.at_level(logging.WARNING):
        load_model(folder, device="cpu")
    assert "9 tensors are not used, the first: model.layers.1" in caplog.text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_named(folder, value):
    tensors = state(folder)
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name][3, 5] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=f"parameter {name} has 1 values of 3072 that are NaN or infinite"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "architecture BertForMaskedLM"),
        ({"model_type": "bert", "architectures": ["BertModel"]}, "bert is an encoder"),
        ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}, "t5 is an encoder-decoder"),
        ({"model_type": "vit"}, "transformers has no causal head for vit"),
        (
            {"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]},
            "SequenceClassification",
        ),
    ],
)
def test_what_is_not_a_causal_model_is_refused(tmp_path, config, why):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match=f"is not a causal language model .*{why}"):
        load_model(tmp_path)


def test_unknown_and_quantized_models_are_refused(folder):
    edit_config(folder, model_type="llamma")
    with pytest.raises(
        UnsupportedModelError, match=r"does not know the model type 'llamma'.*trust_remote_code"
    ):
        load_model(folder)
    edit_config(folder, model_type="llama", quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(UnsupportedModelError, match=r"is quantized \(gptq\)"):
        load_model(folder)


def test_experts_that_cannot_be_tapped_are_refused_before_the_weights_are_read(folder):
    edit_config(folder, model_type="jetmoe", num_local_experts=2, architectures=["JetMoeForCausalLM"])
    (folder / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(
        UnsupportedModelError, match=r"(?s)'jetmoe' holds routed experts in a form.*JetMoeMoE"
    ):
        load_model(folder)


def test_a_missing_or_broken_tokenizer_is_named(folder):
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"the tokenizer in .* cannot be loaded"):
        load_model(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"no tokenizer in .*wanted tokenizer.json"):
        load_model(folder)


def test_tokenizer_json_alone_is_enough(folder):
    (folder / "tokenizer_config.json").unlink()
    ids = load_model(folder, device="cpu").tokenizer.encode("ab c", add_special_tokens=False)
    assert ids == tiny_tokenizer().encode("ab c", add_special_tokens=False)


def test_training_state_is_read_from_the_folder(tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint-1200")

    def position() -> tuple[int | None, int | None]:
        loaded = load_model(folder, device="cpu")
        return loaded.train_step, loaded.train_tokens

    assert position() == (1200, None)
    (folder / "trainer_state.json").write_text('{"global_step": 1300, "num_input_tokens_seen": 0}')
    assert position() == (1300, None)
    (folder / "trainer_state.json").write_text('{"global_step": 1300, "num_input_tokens_seen": 77}')
    assert position() == (1300, 77)
    (folder / "training_state.json").write_text('{"step": 1400, "tokens": 88}')
    assert position() == (1400, 88)


def test_a_hub_name_is_loaded_from_the_cache_with_its_commit(tiny_checkpoint, tmp_path, monkeypatch, capfd):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--somebody--tiny"
    shutil.copytree(tiny_checkpoint, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "step500").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    loaded = load_model("somebody/tiny", revision="step500", device="cpu")
    assert (loaded.name, loaded.revision, loaded.train_step) == ("somebody/tiny", commit, 500)
    with pytest.raises(InputError, match="'somebody/tiny' is neither a local folder nor a model"):
        load_model("somebody/tiny", revision="another")


@pytest.mark.parametrize("model_type", ["gpt2", "phi3", "opt", "gemma2", "bloom"])
def test_tied_and_renamed_weights_come_back(model_type, tmp_path):
    model = build(model_type)
    loaded = load_model(save_checkpoint(tmp_path, model), device="cpu")
    with torch.no_grad():
        assert torch.equal(logits(loaded), model(tiny_input()).logits)


@pytest.mark.parametrize("model_type", ["gemma3", "llava", "mistral3", "qwen3_vl"])
def test_a_vision_language_model_is_loaded_and_reads_text(model_type, tmp_path):
    model = small_model(model_type)
    loaded = load_model(save_checkpoint(tmp_path, model), device="cpu")
    assert [site.layer for site in loaded.sites] == list(range(4))
    assert all(".language_model." in site.name for site in loaded.sites)
    with torch.no_grad():
        assert torch.equal(logits(loaded), model(tiny_input()).logits)


def test_layers_without_a_block_are_in_the_provenance(tmp_path):
    kinds = ["linear_attention", "mlp", "full_attention", "mlp"]
    folder = save_checkpoint(tmp_path, small_model("nemotron_h", layers_block_type=kinds))
    loaded = load_model(folder, device="cpu")
    assert [site.layer for site in loaded.sites] == [1, 3]
    assert loaded.provenance()["layers_without_site"] == ("model.layers.0", "model.layers.2")


@pytest.mark.parametrize(
    "shard", ["../model.safetensors", "/etc/passwd", "sub/model.safetensors", "x" * 5000]
)
def test_an_index_that_names_a_file_elsewhere_is_refused(folder, shard):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(InputError, match=r"outside of its folder|lacks 1 of 1 files"):
        load_model(folder)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_an_attention_that_would_be_fetched_from_a_hub_is_refused(folder, key):
    edit_config(folder, **{key: "kernels-community/flash-attn"})
    with pytest.raises(InputError, match=f"{key} = .*, which may load code; allowed: eager"):
        load_model(folder)


@pytest.mark.parametrize(
    "change", [{"num_hidden_layers": 10**6}, {"vocab_size": 10**12}, {"hidden_size": -(10**12)}]
)
def test_sizes_that_no_model_has_end_at_once(folder, change):
    edit_config(folder, **change)
    with pytest.raises(InputError, match="a size that no model has"):
        load_model(folder)
