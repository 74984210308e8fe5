"""Training configurations: precedence of file, preset and overrides, and the error message of every wrong value."""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from pathlib import Path

import pytest

from sparsing.errors import InputError
from sparsing.training.config import TrainConfig
from sparsing.training.config_file import build_train_config, parse_pair, parse_pairs, read_train_config


@pytest.fixture
def toml(tmp_path):
    def write(text: str):
        path = tmp_path / "run.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_the_file_goes_before_its_preset_and_the_command_line_before_the_file(toml):
    path = toml(
        'preset = "nano-0.3M"\n[model]\nhidden_act = "silu"\ncontext = 128\n[training]\ntokens = 1e6\n'
    )
    config = read_train_config(path, overrides={"model.hidden_act": "gelu"})
    assert (config.model.d_model, config.model.n_layers, config.model.n_heads) == (96, 2, 2)
    assert (config.model.context, config.model.hidden_act) == (128, "gelu")
    assert config.training.tokens == 1_000_000
    assert config.training.batch_tokens == 2048  # the preset's
    assert read_train_config(path, preset="nano-2M").model.d_model == 192


def test_defaults_follow_from_the_shape():
    config = read_train_config(preset="0.1B", overrides={"training.tokens": 10**9})
    assert (config.model.d_ff, config.model.n_kv_heads, config.model.vocab_size) == (1920, 6, 122_753)
    assert (config.training.lr, config.training.beta1, config.training.beta2) == (0.01, 0.9, 0.95)
    assert (config.training.weight_decay, config.training.clip) == (0.1, 1.0)
    assert config.tracking is None


def test_a_configuration_is_equal_after_json():
    config = read_train_config(
        preset="nano-0.3M",
        overrides={
            "training.tokens": 10**6,
            "checkpoints.at": [1000, 2000],
            "sparser.l1_factors": [0.1],
            "sparser.l1_steps": [5],
        },
    )
    assert build_train_config(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("training.lr=0.02", ("training.lr", 0.02)),
        ("training.tokens = 1_000", ("training.tokens", 1000)),
        ("checkpoints.at=[1, 2]", ("checkpoints.at", [1, 2])),
        ("model.hidden_act=silu", ("model.hidden_act", "silu")),
        ('data.text="a=b.txt"', ("data.text", "a=b.txt")),
    ],
)
def test_a_pair_is_read_as_toml_or_as_a_string(text, pair):
    assert parse_pair(text) == pair


def test_the_last_of_two_equal_keys_counts_and_a_pair_needs_its_sign():
    assert parse_pairs(["training.lr=1", "training.lr=2"]) == {"training.lr": 2}
    with pytest.raises(InputError, match=r"needs key=value, got 'training.lr'"):
        parse_pair("training.lr")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"training.tokns": 1},
            r"Unknown key of \[training\] 'tokns'. Did you mean: tokens\? Available: batch_tokens",
        ),
        ({"trainig.lr": 1}, r"Unknown table or key 'trainig'. Did you mean: training\?"),
        ({"lr": 1}, r"unknown key 'lr'; write the table before the key, e.g. training.lr"),
        ({"training.lr": "fast"}, r"training.lr must be a number, got 'fast'"),
        ({"training.lr": 0}, r"training.lr must be above 0, got 0"),
        ({"checkpoints.count": 10**9}, r"checkpoints.count must be in \[1, 100000\], got 1000000000"),
        ({"training.lr": float("nan")}, r"training.lr must be above 0, got nan"),
        ({"training.tokens": 1.5}, r"training.tokens must be a whole number, got 1.5"),
        ({"training.seed": -1}, r"training.seed must be in \[0, 4294967295\], got -1"),
        ({"training.seed": 2**32}, r"training.seed must be in \[0, 4294967295\], got 4294967296"),
        ({"training.beta2": 1}, r"training.beta2 must be in \[0, 1\), got 1"),
        ({"training.decay": 1.5}, r"training.decay must be in \[0, 1\], got 1.5"),
        ({"training.seed": True}, r"training.seed must be a whole number, got True"),
        ({"training.tokens": 0}, r"training.tokens must be 1 or more, got 0"),
        ({"training.warmup": 0.5, "training.decay": 0.6}, r"sum to more than 1; lower one of them"),
        (
            {"training.decay_shape": "cosin"},
            r"decay_shape must be one of linear, cosine, 1-sqrt, got 'cosin'",
        ),
        ({"training.precision": "fp8"}, r"precision must be one of auto, bfloat16, float32, got 'fp8'"),
        (
            {"training.batch_tokens": 300},
            r"training.batch_tokens = 300 must be a multiple of model.context = 256; the nearest is 256",
        ),
        ({"model.n_heads": 5}, r"model.d_model = 96 must be a multiple of model.n_heads = 5"),
        ({"model.n_heads": 32}, r"gives heads of size 3, but rotary embedding needs an even size"),
        ({"model.vocab_size": 100}, r"model.vocab_size must be 258 or more, got 100"),
        ({"model.parametrization": "sp"}, r"parametrization must be one of mup, standard, got 'sp'"),
        ({"model.hidden_act": 3}, r"model.hidden_act must be a text in quotes, got 3"),
        ({"checkpoints.at": 5}, r"checkpoints.at must be a list, got 5"),
        ({"checkpoints.at": [5.5]}, r"checkpoints.at must be a whole number, got 5.5"),
        (
            {"checkpoints.at": [2_000_000]},
            r"has 2,000,000 tokens, but the run ends at training.tokens = 1,000,000",
        ),
        ({"tracking.tokens": 10**6}, r"tracking.tokens must be in \[2, 32768\]"),
        ({"sparser.l1_factors": [0.1]}, r"give one number per stage in both"),
    ],
)
def test_a_wrong_value_gets_one_line_with_its_key(overrides, message):
    with pytest.raises(InputError, match=message):
        read_train_config(preset="nano-0.3M", overrides={"training.tokens": 1_000_000, **overrides})


def test_missing_required_keys_are_named(toml):
    with pytest.raises(InputError, match=r"training.tokens is missing; set under \[training\] how many"):
        read_train_config(preset="nano-0.3M")
    with pytest.raises(InputError, match=r"model.d_model is missing; give a preset, or the shape"):
        read_train_config(toml("[training]\ntokens = 1000\n"))
    with pytest.raises(InputError, match=r"Unknown preset 'nano-1M'. Did you mean: nano-"):
        read_train_config(preset="nano-1M")


def test_unreadable_files_are_refused(toml, tmp_path):
    with pytest.raises(InputError, match="no file"):
        read_train_config(tmp_path / "nowhere.toml")
    with pytest.raises(InputError, match="is not a TOML file"):
        read_train_config(toml("lr: 3"))
    with pytest.raises(InputError, match=r"model must be a table, got 3; write \[model\]"):
        read_train_config(toml("model = 3"))


def test_the_docs_list_every_key_and_no_other():
    page = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"### \[(\w+)\]\n(.*?)(?=\n##)", page, re.DOTALL))
    hints = typing.get_type_hints(TrainConfig)
    assert sections.keys() == hints.keys()
    for name, hint in hints.items():
        table = next((part for part in typing.get_args(hint) if dataclasses.is_dataclass(part)), hint)
        keys = re.findall(r"^\| `(\w+)` \|", sections[name], re.MULTILINE)
        assert keys == [field.name for field in dataclasses.fields(table)]
