"""MiniCPM as Granite: the mapping by hand, and the reference's own figures on two checkpoints."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from sparsing.errors import UnsupportedModelError
from sparsing.models.loading import load_model
from sparsing.models.minicpm import granite_config

CONFIG = {
    **{"model_type": "minicpm", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4},
    **{
        "scale_emb": 12,
        "scale_depth": 1.4,
        "dim_model_base": 16,
        "intermediate_size": 160,
        "vocab_size": 128,
    },
}


def test_the_four_scalars_by_hand():
    config = granite_config(CONFIG)
    assert config.embedding_multiplier == 12.0
    assert config.residual_multiplier == pytest.approx(0.7)  # 1.4 / sqrt(4)
    assert config.logits_scaling == 4.0  # 64 / 16
    assert config.attention_multiplier == 0.25  # head_dim 16
    assert config.num_key_value_heads == 4
    assert config.rms_norm_eps == 1e-6


def test_the_head_is_tied_unless_the_config_says_otherwise():
    assert granite_config(CONFIG).tie_word_embeddings is True
    assert granite_config(CONFIG | {"tie_word_embeddings": False}).tie_word_embeddings is False


def test_old_keys_are_honoured_and_unknown_ones_ignored():
    config = granite_config(
        CONFIG
        | {"rope_theta": 5000.0, "rope_scaling": {"type": "linear", "factor": 2.0}, "torch_dtype": "bfloat16"}
        | {"num_experts": 40, "kv_lora_rank": 256, "auto_map": {"AutoConfig": "evil.Config"}}
    )
    assert config.rope_parameters["rope_theta"] == 5000.0
    assert config.rope_parameters["rope_type"] == "linear"
    assert config.rope_parameters["factor"] == 2.0
    assert config.dtype is torch.bfloat16
    assert not hasattr(config, "num_experts")
    assert not hasattr(config, "auto_map")


@pytest.mark.parametrize("change", [{"ffn_type": "moe"}, {"attention_type": "mla"}])
def test_what_granite_cannot_compute_is_refused(change):
    with pytest.raises(UnsupportedModelError, match="only 'vanilla'"):
        granite_config(CONFIG | change)


@pytest.mark.parametrize("name", ["minicpm-tiny-relu-0", "minicpm-tiny-silu-1"])
def test_the_reference_gives_the_same_logits(name, shared):
    golden = json.loads((shared / "parity/golden.json").read_text(encoding="utf-8"))
    runs = [run for run in golden["runs"] if run["ckpt"] == name]
    loaded = load_model(shared / "parity" / name, device="cpu")
    assert (loaded.model_type, loaded.model.config.model_type) == ("minicpm", "granite")
    ids = [loaded.tokenizer.bos_token_id, *loaded.tokenizer.encode(golden["text"], add_special_tokens=False)]
    ids = torch.tensor([ids])
    with torch.no_grad():
        logits = loaded.model(ids).logits[0]
    nll = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:]).item()
    assert runs
    for run in runs:
        assert run["tokens"] == ids.shape[1]
        assert nll == pytest.approx(run["dense_nll"], abs=1e-5)
        count = len(run["last_logits"])
        assert logits[-1, :count].tolist() == pytest.approx(run["last_logits"], abs=1e-5)


@pytest.mark.parametrize("tokenizer_class", ["LlamaTokenizer", "NoSuchTokenizer", None])
def test_remote_code_is_not_run_and_the_tokenizer_is_found(tokenizer_class, shared, tmp_path):
    """As the published folders are: `auto_map` and the code beside it, an unknown model type."""
    source, folder = shared / "parity/minicpm-tiny-relu-0", tmp_path / "published"
    shutil.copytree(source, folder, copy_function=shutil.copyfile)
    folder.chmod(0o755)
    config = json.loads((source / "config.json").read_text())
    code = "configuration_minicpm.MiniCPMConfig"
    config |= {
        "auto_map": {"AutoConfig": code, "AutoModelForCausalLM": "modeling_minicpm.MiniCPMForCausalLM"}
    }
    (folder / "config.json").write_text(json.dumps(config))
    for module in ("configuration_minicpm", "modeling_minicpm"):
        (folder / f"{module}.py").write_text("raise SystemExit('remote code was run')\n")
    settings = json.loads((source / "tokenizer_config.json").read_text()) | {
        "tokenizer_class": tokenizer_class
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    loaded, original = load_model(folder, device="cpu"), load_model(source, device="cpu")
    text = "Assert statements are convenient.\n"
    ids = original.tokenizer.encode(text, add_special_tokens=False)
    assert loaded.tokenizer.encode(text, add_special_tokens=False) == ids
    assert len(ids) > 5
    assert loaded.tokenizer.bos_token_id == 1
    assert torch.equal(loaded.model(torch.tensor([ids])).logits, original.model(torch.tensor([ids])).logits)
